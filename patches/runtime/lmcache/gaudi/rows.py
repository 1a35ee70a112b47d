# SPDX-License-Identifier: Apache-2.0
"""Memory objects and pinned buffers as arrays of rows, and which rows of the one go where in the other.

A memory object is given as its tensors, one for each section of the layout, ``[kv, layers, tokens, width]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .layout import host_dtype

if TYPE_CHECKING:
    from .kernels import Part
    from .layout import Section
    from .plan import Group, Slots
    from .staging import Array

__all__ = ["bits", "check", "filled", "host_arrays", "part_rows", "slot_array", "unpacked"]


def check(
    sections: Sequence[Section], objects: Sequence[Sequence[torch.Tensor]], spans: Sequence[tuple[int, int]]
) -> None:
    """Refuse memory objects of another shape or size of element than the layout's.

    Args:
        sections: Of the layout.
        objects: Tensors of each memory object, one a section.
        spans: ``(start, end)`` token positions of each object.

    Raises:
        ValueError: With what is there and what the layers need.
    """
    for tensors, (start, end) in zip(objects, spans, strict=True):
        if len(tensors) != len(sections):
            raise ValueError(f"a memory object of {len(tensors)} tensors, where the layers need {len(sections)}")
        for tensor, section in zip(tensors, sections, strict=True):
            if tuple(tensor.shape) != section.shape(end - start):
                raise ValueError(
                    f"a memory object of shape {list(tensor.shape)} for tokens {start}..{end}, "
                    f"where the layers need {list(section.shape(end - start))}"
                )
            if tensor.dtype.itemsize != section.dtype.itemsize:
                raise ValueError(f"a memory object of {tensor.dtype} for a KV cache of {section.dtype}")


def filled(rows: Array, part: Part, group: Group, arrays: Sequence[Sequence[Array]]) -> list[tuple[Array, Array]]:
    """Return ``(target, source)`` of memory objects to a part of a group, and of its padding rows."""
    pairs = [
        (
            rows[:, run.row : run.row + run.count],
            arrays[run.obj][part.section][part.first : part.last, run.start : run.start + run.count],
        )
        for run in group.runs
    ]
    if group.padding and not group.sink:
        # Without a padding block the padding rows go to the slot of the last row: they must be that row.
        last = pairs[-1][1][:, -1:]
        padding = rows[:, group.rows :]
        pairs.append((padding, np.broadcast_to(last, padding.shape)))
    return pairs


def unpacked(rows: Array, part: Part, group: Group, arrays: Sequence[Sequence[Array]]) -> list[tuple[Array, Array]]:
    """Return ``(target, source)`` of a part of a group to memory objects."""
    return [
        (
            arrays[run.obj][part.section][part.first : part.last, run.start : run.start + run.count],
            rows[:, run.row : run.row + run.count],
        )
        for run in group.runs
    ]


def slot_array(slots: torch.Tensor) -> Slots:
    """Return a slot mapping as int64 numpy array; a mapping on the device is read back, which waits for the device."""
    array: Slots = slots.detach().to(device="cpu", dtype=torch.int64).contiguous().numpy()
    return array.reshape(-1)


def host_arrays(tensors: Sequence[torch.Tensor]) -> list[Array]:
    """Return each tensor of a memory object as integers ``[planes, tokens, width]``, on the host."""
    arrays = []
    for tensor in tensors:
        kv, layers, tokens, width = tensor.shape
        flat = tensor.to("cpu").view(host_dtype(tensor.dtype)).view(kv * layers, tokens, width)
        arrays.append(flat.numpy())
    return arrays


def part_rows(host: torch.Tensor, part: Part) -> Array:
    """Return a pinned buffer as integers ``[planes, rows, width]``."""
    array: Array = host.view(host_dtype(part.dtype)).numpy()
    return array.reshape(part.planes, -1, part.width)


def bits(tensor: torch.Tensor, section: Section) -> torch.Tensor:
    """Return a tensor on the device with the dtype of the caches."""
    dtype = section.planes[0].tensor.dtype
    return tensor if tensor.dtype == dtype else tensor.view(dtype)
