"""What a transfer must do, token by token, in NumPy on bytes. Shares nothing with what it judges.

A *plane* is one layer's K, V or latent cache: uint8 ``[slots, bytes a row]``. A memory object's content is a
list of arrays, one for each kind of layer, uint8 ``[planes, tokens, bytes a row]``: the K planes of that kind in
layer order, then the V planes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, TypeAlias

# Untyped: this file is checked where NumPy is not installed too.
np: Any = importlib.import_module("numpy")
Bytes: TypeAlias = Any  # numpy.ndarray of uint8
Random: TypeAlias = Any  # numpy.random.Generator


def stored(planes: Sequence[Bytes], slots: Sequence[int], start: int, end: int) -> tuple[Bytes, list[int]]:
    """The object that holds tokens ``start`` to ``end``, and which of its tokens it must hold.

    Tokens without a slot (below 0) have no cache row: what the object holds for them is not defined.
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
    """The planes after the objects are written into them.

    cached: leading tokens that the serving engine already has; their rows stay as they are.
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
    """Slots of a request's tokens in blocks drawn at random, as a paged allocator gives them out."""
    needed = -(-tokens // block_size)
    if needed > blocks:
        raise ValueError(f"{tokens} tokens need {needed} blocks, there are {blocks}")
    table = rng.permutation(blocks)[:needed]
    return [int(table[token // block_size]) * block_size + token % block_size for token in range(tokens)]


def difference(found: Bytes, expected: Bytes, rows: Sequence[int] | None = None) -> str:
    """Where two arrays of rows differ, in words; empty where they are equal.

    Both are ``[planes, rows, bytes]``; ``rows``: the rows to compare, by default all.
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
        f"{len(places)} rows of {unequal.size} are wrong, the first in plane {plane}, row {row}: "
        f"{found[plane, row][:8].tobytes().hex()}.. for {expected[plane, row][:8].tobytes().hex()}.."
    )
