# SPDX-License-Identifier: Apache-2.0
"""Paged gather and scatter, one graph per group of chunks.

Both work by a flat one-dimensional index on dimension 0 of the flat caches, as vLLM itself writes its cache on
Gaudi (vllm-gaudi: vllm_gaudi/extension/utils.py): large contiguous rows, no boolean mask, no ``index_put_``. The
index comes as int32, which the bridge copies from where it lies, and becomes int64 on the device, because
``index_copy_`` of upstream PyTorch refuses int32. The device holds both in 32 bits.

A group of ``g`` chunks moves as ``min(g, planes)`` *parts*. A part is some consecutive planes of one section, all
rows of the group: ``[planes, g * chunk, width]``. A plane's rows are contiguous in it, so that scatter needs no
concatenation and gather exactly one; and a part of any group is about one chunk in size, so that pinned buffers
of one size serve all groups, with one copy a chunk.

The graphs depend on the size of the group only. Nothing here slices or selects by a number that depends on the
request: the bridge makes such numbers part of the graph (habana_lazy/ops/index.h) and would compile anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .device import Backend
    from .layout import Layout

__all__ = ["Kernels", "Part"]

Gather = Callable[[Sequence[torch.Tensor], torch.Tensor], list[torch.Tensor]]
Scatter = Callable[[Sequence[torch.Tensor], torch.Tensor, Sequence[torch.Tensor]], None]


@dataclass(frozen=True)
class Part:
    """Consecutive planes of one section that are copied as one piece.

    Attributes:
        section: Index of the section.
        first: First plane within the section.
        last: One past the last plane.
        width: Elements a row.
        dtype: Element type on the device.
    """

    section: int
    first: int
    last: int
    width: int
    dtype: torch.dtype

    @property
    def planes(self) -> int:
        """Return the number of planes."""
        return self.last - self.first

    def elements(self, rows: int) -> int:
        """Return the number of elements for ``rows`` rows."""
        return self.planes * rows * self.width


class Kernels:
    """Gather and scatter over one layout.

    Args:
        layout: The caches.
        backend: The device.
        chunk: Rows of a group of one chunk.
        largest: Largest group in chunks, a power of two.
        joined: Most chunks, a power of two, whose rows gather_objects reads at a time before it joins them.
    """

    def __init__(self, layout: Layout, backend: Backend, *, chunk: int, largest: int, joined: int = 1) -> None:
        if largest < 1 or largest & (largest - 1):
            raise ValueError(f"the largest group must be a power of two, not {largest}")
        self.chunk = chunk
        self.joined = joined
        self.sizes = tuple(1 << bit for bit in range(largest.bit_length()))
        self._backend = backend
        self._layout = layout
        self._planes = tuple(plane.tensor for section in layout.sections for plane in section.planes)
        self._shapes = tuple(plane.row_shape for section in layout.sections for plane in section.planes)
        self._parts = {size: self._split(size) for size in self.sizes}
        self._gathers = {size: self._make_gather(size) for size in self.sizes}
        self._scatters = {size: self._make_scatter(size) for size in self.sizes}
        self._direct: dict[int, Scatter] = {}
        self._direct_gathers: dict[int, Gather] = {}

    def parts(self, chunks: int) -> tuple[Part, ...]:
        """Return the parts of a group of ``chunks`` chunks, in the order of the planes."""
        return self._parts[chunks]

    @cached_property
    def part_bytes(self) -> int:
        """Return the size of the largest part of any group, in bytes."""
        return max(
            part.elements(size * self.chunk) * part.dtype.itemsize for size in self.sizes for part in self._parts[size]
        )

    def gather(self, chunks: int, index: torch.Tensor) -> list[torch.Tensor]:
        """Read rows of all planes. One graph; submitted, not waited for.

        Args:
            chunks: Size of the group.
            index: Slots, int32 ``[chunks * chunk]``, on the device.

        Returns:
            A tensor ``[planes * chunks * chunk, width]`` for each part.
        """
        outputs = self._gathers[chunks](self._planes, index)
        self._backend.submit()
        return outputs

    def scatter(self, chunks: int, index: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
        """Write rows of all planes. One graph; submitted, not waited for.

        Args:
            chunks: Size of the group.
            index: Slots, int32 ``[chunks * chunk]``, on the device. Slots that repeat must carry equal rows.
            parts: A tensor ``[planes * chunks * chunk, width]`` for each part, on the device.
        """
        self._scatters[chunks](self._planes, index, parts)
        self._backend.submit()

    def gather_objects(self, chunks: int, index: torch.Tensor) -> list[torch.Tensor]:
        """Read rows of all planes into whole memory objects. One graph; submitted, not waited for.

        A few chunks at a time, so that beside the objects only their rows take memory while they are joined; fewer
        reads of more rows where there is room.

        Args:
            chunks: Size of the group.
            index: Slots, int32 ``[chunks * chunk]``, on the device.

        Returns:
            A tensor ``[planes * chunk, width]`` for each object. The layout has one section.
        """
        if chunks not in self._direct_gathers:
            self._direct_gathers[chunks] = self._make_gather_objects(chunks)
        outputs = self._direct_gathers[chunks](self._planes, index)
        self._backend.submit()
        return outputs

    def scatter_objects(self, chunks: int, index: torch.Tensor, objects: Sequence[torch.Tensor]) -> None:
        """Write rows of all planes from memory objects that are on the device already.

        Args:
            chunks: Size of the group.
            index: Slots, int32 ``[chunks * chunk]``, on the device.
            objects: For each section, for each object: ``[planes, chunk, width]``.
        """
        if chunks not in self._direct:
            self._direct[chunks] = self._make_scatter_objects(chunks)
        self._direct[chunks](self._planes, index, objects)
        self._backend.submit()

    def _split(self, chunks: int) -> tuple[Part, ...]:
        parts = []
        for number, section in enumerate(self._layout.sections):
            share = chunks * section.token_bytes / self._layout.token_bytes
            step = math.ceil(len(section.planes) / min(max(1, round(share)), len(section.planes)))
            for first in range(0, len(section.planes), step):
                last = min(first + step, len(section.planes))
                parts.append(Part(number, first, last, section.width, section.planes[0].tensor.dtype))
        return tuple(parts)

    def _cuts(self, chunks: int) -> tuple[tuple[int, int, int], ...]:
        """``(first plane, last plane, width)`` of each part, planes counted over all sections."""
        cuts = []
        first = 0
        for part in self._parts[chunks]:
            cuts.append((first, first + part.planes, part.width))
            first += part.planes
        return tuple(cuts)

    def _make_gather(self, chunks: int) -> Gather:
        cuts, rows = self._cuts(chunks), chunks * self.chunk

        def gather(planes: Sequence[torch.Tensor], index: torch.Tensor) -> list[torch.Tensor]:
            outputs = []
            index = index.to(torch.int64)
            for first, last, width in cuts:
                pieces = [planes[p].index_select(0, index).view(rows, width) for p in range(first, last)]
                outputs.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
            return outputs

        return self._backend.compiled(gather)

    def _make_scatter(self, chunks: int) -> Scatter:
        cuts, rows, shapes = self._cuts(chunks), chunks * self.chunk, self._shapes

        def scatter(planes: Sequence[torch.Tensor], index: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
            index = index.to(torch.int64)
            for (first, last, width), part in zip(cuts, parts, strict=True):
                stacked = part.view(last - first, rows, width)
                for number, p in enumerate(range(first, last)):
                    planes[p].index_copy_(0, index, stacked[number].view(rows, *shapes[p]))

        return self._backend.compiled(scatter)

    def _make_gather_objects(self, chunks: int) -> Gather:
        chunk, width = self.chunk, self._layout.sections[0].width
        step = min(self.joined, chunks)

        def gather(planes: Sequence[torch.Tensor], index: torch.Tensor) -> list[torch.Tensor]:
            outputs = []
            index = index.to(torch.int64)
            for first in range(0, chunks, step):
                rows = index[first * chunk : (first + step) * chunk]
                pieces = [plane.index_select(0, rows).view(step * chunk, width) for plane in planes]
                for start in range(0, step * chunk, chunk):
                    outputs.append(torch.cat([piece[start : start + chunk] for piece in pieces]))
            return outputs

        return self._backend.compiled(gather)

    def _make_scatter_objects(self, chunks: int) -> Scatter:
        rows, shapes = chunks * self.chunk, self._shapes
        counts = [len(section.planes) for section in self._layout.sections]

        def scatter(planes: Sequence[torch.Tensor], index: torch.Tensor, objects: Sequence[torch.Tensor]) -> None:
            index = index.to(torch.int64)
            plane = 0
            for section, count in enumerate(counts):
                members = objects[section * chunks : (section + 1) * chunks]
                for number in range(count):
                    pieces = [member[number] for member in members]
                    joined = pieces[0] if chunks == 1 else torch.cat(pieces)
                    planes[plane].index_copy_(0, index, joined.view(rows, *shapes[plane]))
                    plane += 1

        return self._backend.compiled(scatter)
