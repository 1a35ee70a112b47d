"""The oracle: what a transfer must do, token by token, in NumPy on bytes. It shares no code with what it judges.

A *plane* is one layer's K, V or latent cache: uint8 ``[slots, bytes per row]``. A memory object's content is a list
of arrays, one for each kind of layer, uint8 ``[planes, tokens, bytes per row]``: the K planes of that kind in layer
order, then the V planes.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

# Untyped, because this file is also type-checked without NumPy.
np: Any = importlib.import_module("numpy")
Bytes: TypeAlias = Any  # numpy.ndarray of uint8
Random: TypeAlias = Any  # numpy.random.Generator


def stored(planes: Sequence[Bytes], slots: Sequence[int], start: int, end: int) -> tuple[Bytes, list[int]]:
    """Return the expected object for tokens ``start`` to ``end``, and which of its tokens are defined.

    Tokens without a slot (below 0) have no cache row, so their content in the object is undefined.
    """
    content = np.zeros((len(planes), end - start, planes[0].shape[1]), dtype=np.uint8)
    defined = []
    for token in range(start, end):
        slot = slots[token]
        if slot < 0:
            continue
        defined.append(token - start)
        for number, plane in enumerate(planes):
            content[number, token - start] = plane[slot]
    return content, defined


def loaded(
    planes: Sequence[Bytes],
    objects: Sequence[Bytes],
    spans: Sequence[tuple[int, int]],
    slots: Sequence[int],
    cached: int = 0,
) -> list[Bytes]:
    """Return the planes after the objects are written into them.

    cached: leading tokens that the serving engine already has; their rows stay unchanged.
    """
    after = [plane.copy() for plane in planes]
    for content, (start, end) in zip(objects, spans):  # noqa: B905 - equal by construction
        for token in range(start, end):
            slot = slots[token]
            if slot < 0 or token < cached:
                continue
            for number, plane in enumerate(after):
                plane[slot] = content[number, token - start]
    return after


def slot_map(tokens: int, blocks: int, block_size: int, rng: Random) -> list[int]:
    """Return the slots of a request's tokens in random blocks, as from a paged allocator."""
    needed = -(-tokens // block_size)
    if needed > blocks:
        raise ValueError(f"{tokens} tokens need {needed} blocks, there are {blocks}")
    table = rng.permutation(blocks)[:needed]
    return [int(table[token // block_size]) * block_size + token % block_size for token in range(tokens)]


def difference(found: Bytes, expected: Bytes, rows: Sequence[int] | None = None) -> str:
    """Return in words where a memory object's content differs from the expected; "" if it matches.

    Both are ``[planes, tokens, bytes]``; ``rows``: the tokens to compare, by default all.
    """
    if found.shape != expected.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    unequal = (found != expected).any(axis=2)
    if rows is not None:
        outside = np.ones(unequal.shape[1], dtype=bool)
        outside[list(rows)] = False
        unequal[:, outside] = False
    places = np.argwhere(unequal)
    if not len(places):
        return ""
    plane, row = (int(number) for number in places[0])
    return (
        f"{int(unequal.any(axis=0).sum())} of {unequal.shape[1]} tokens are wrong, in {_planes(unequal)}; "
        f"the first is token {row}: {_sample(found[plane, row], expected[plane, row])}"
    )


def wrong_rows(found: Sequence[Bytes], expected: Sequence[Bytes], request: Collection[int]) -> str:
    """Return in words where caches differ from the expected, inside and outside the slots to be written."""
    problems = []
    for number, (now, then) in enumerate(zip(found, expected)):  # noqa: B905 - equal by construction
        problems += [(number, int(row)) for row in np.flatnonzero((now != then).any(axis=1))]
    if not problems:
        return ""
    slots = {row for _, row in problems}
    outside = slots - set(request)
    parts = []
    if outside:
        parts.append(f"{len(outside)} slots that were not to be written have changed (slot {min(outside)} first)")
    if slots - outside:
        parts.append(f"{len(slots - outside)} of {len(request)} slots to be written have the wrong content")
    plane, row = problems[0]
    planes = len({number for number, _ in problems})
    where = f"in {planes} of {len(found)} planes; slot {row} of plane {plane}"
    return f"{' and '.join(parts)}, {where}: {_sample(found[plane][row], expected[plane][row])}"


def _planes(unequal: Bytes) -> str:
    return f"{int(unequal.any(axis=1).sum())} of {unequal.shape[0]} planes"


def _sample(found: Bytes, expected: Bytes) -> str:
    return f"{found[:8].tobytes().hex()}.. for {expected[:8].tobytes().hex()}.."
