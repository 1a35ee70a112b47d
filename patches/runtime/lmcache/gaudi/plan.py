# SPDX-License-Identifier: Apache-2.0
"""Which tokens travel in which group of chunks: pure arithmetic on the CPU.

The device compiles a graph for every shape and every constant it meets, so the shapes must not depend on the
prompt. Rows that are to move are packed densely, in token order, into groups of ``g * chunk`` rows with ``g`` a
power of two, and only the last group is padded. The number of distinct graphs a direction is then
``log2(largest group) + 1`` for any prompt, prefix and tail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Group", "Run", "group_sizes", "plan"]

Slots = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one memory object that lie consecutively in a group.

    Attributes:
        obj: Index of the memory object in the request.
        start: First token within the object.
        row: First row within the group.
        count: Number of tokens.
    """

    obj: int
    start: int
    row: int
    count: int


@dataclass(frozen=True)
class Group:
    """Rows that are transferred together.

    Attributes:
        chunks: Size of the group in chunks, a power of two.
        rows: Rows in use; the rest, up to ``chunks * chunk``, is padding.
        index: Slot of every row, int64 ``[chunks * chunk]``, padding included.
        runs: Where the rows in use come from.
        padding: Rows of padding; they repeat the last row in use unless ``sink``.
        sink: Whether the padding points into the padding block, so that its content does not matter.
    """

    chunks: int
    rows: int
    index: Slots
    runs: tuple[Run, ...]
    sink: bool

    @property
    def padding(self) -> int:
        """Return the number of padding rows."""
        return len(self.index) - self.rows


def group_sizes(chunks: int, largest: int) -> Iterator[int]:
    """Split a number of chunks into powers of two, largest first.

    Args:
        chunks: How many, at least 0.
        largest: Largest group, a power of two.

    Yields:
        Powers of two that sum to ``chunks``: ``chunks // largest`` times ``largest``, then the bits of the rest.
    """
    while chunks:
        size = min(largest, 1 << (chunks.bit_length() - 1))
        yield size
        chunks -= size


def plan(
    spans: Sequence[tuple[int, int]],
    slots: Slots,
    *,
    chunk: int,
    largest: int,
    capacity: int,
    pad: tuple[int, int] | None,
    skip: int = 0,
) -> list[Group]:
    """Pack the tokens of a request.

    Args:
        spans: ``(start, end)`` of each memory object, token positions in the request.
        slots: Slot of every token of the request, int64; a token with a slot below 0 does not travel.
        chunk: Rows of the smallest group, LMCache's chunk size in tokens.
        largest: Largest group in chunks, a power of two.
        capacity: Slots that a request may use; anything above is an error.
        pad: First slot and length of the padding block, or None.
        skip: Tokens before this position do not travel (blocks that vLLM shares with other requests).

    Returns:
        The groups, in token order; empty when nothing is to travel.

    Raises:
        IndexError: A slot lies outside the caches, or a span outside the slot mapping. On HPU such a write
            would be clamped or wrapped silently, into a block of another request.
    """
    runs: list[tuple[int, int, Slots]] = []
    for number, (start, end) in enumerate(spans):
        if not 0 <= start <= end <= len(slots):
            raise IndexError(f"tokens {start}..{end} are outside the slot mapping of {len(slots)} tokens")
        first = min(max(start, skip), end)
        runs += _live_runs(number, first - start, slots[first:end])
    if not runs:
        return []
    index = np.concatenate([part for _, _, part in runs])
    if int(index.max()) >= capacity:
        raise IndexError(f"slot {int(index.max())} is outside the KV cache of {capacity} slots")
    groups = []
    position = 0
    for size in group_sizes(-(-len(index) // chunk), largest):
        rows = min(size * chunk, len(index) - position)
        padded = _pad(index[position : position + rows], size * chunk, pad)
        groups.append(Group(size, rows, padded, _cut(runs, position, rows), pad is not None))
        position += rows
    return groups


def _live_runs(obj: int, start: int, slots: Slots) -> list[tuple[int, int, Slots]]:
    """Split the tokens of an object at those without a slot: ``(object, first token, slots)``."""
    if not len(slots):
        return []
    live = slots >= 0
    if live.all():
        return [(obj, start, slots)]
    edges = np.flatnonzero(np.diff(np.concatenate(([0], live.view(np.int8), [0]))))
    return [(obj, start + int(first), slots[first:last]) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _pad(index: Slots, length: int, pad: tuple[int, int] | None) -> Slots:
    missing = length - len(index)
    if not missing:
        return index
    if pad is None:
        filler = np.full(missing, index[-1], dtype=np.int64)
    else:
        filler = pad[0] + np.arange(missing, dtype=np.int64) % pad[1]
    return np.concatenate((index, filler))


def _cut(runs: Sequence[tuple[int, int, Slots]], position: int, rows: int) -> tuple[Run, ...]:
    """Return the runs, or parts of runs, that lie in ``position .. position + rows`` of the packed rows."""
    cut = []
    offset = 0
    for obj, start, part in runs:
        first, last = max(offset, position), min(offset + len(part), position + rows)
        if first < last:
            cut.append(Run(obj, start + first - offset, first - position, last - first))
        offset += len(part)
    return tuple(cut)
