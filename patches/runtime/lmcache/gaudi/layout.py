# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- vLLM hands over tensors, tuples and lists of them
"""Every KV-cache layout that vllm-gaudi hands over, normalised once to flat token-major planes.

A *plane* is the K, the V or the latent cache of one layer, addressed by slot: row ``s`` holds token slot ``s``,
``s = block * block_size + offset``. A *section* is the planes that one tensor of an LMCache memory object holds,
in its order: ``[kv, layer]`` of ``[kv, layers, tokens, width]``.

What vllm-gaudi hands over, by tag (``vllm_gaudi/v1/worker/hpu_model_runner.py``):

=====================  =======================================================================================
v0.13 on, MHA          ``TensorTuple((k, v))``, each ``[blocks, block_size, heads, head_size]``, a view of a flat
                       ``[(blocks + 1) * block_size, heads, head_size]``; the last block, a padding block, is
                       trimmed from v0.18.1 on and part of the view before
v0.13 on, MLA          one tensor ``[blocks, block_size, head_size]``
up to v0.13, context   ``(k, v)`` or ``(k, v, None, None)``, flat ``[slots, heads, head_size]``
up to v0.13, MLA       ``(latent, None, None, None)``, flat ``[slots, head_size]``
=====================  =======================================================================================

Each K, V and latent cache is an allocation of its own. Layers that use the KV of another layer are registered with
the very same tensors, and such a plane is moved once. Every other way to share an allocation is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Layout", "LayoutError", "Plane", "Section", "first_tensor", "host_dtype", "normalise", "same_caches"]


class LayoutError(ValueError):
    """These KV caches cannot be served; the text says which layer and why."""


@dataclass(frozen=True)
class Plane:
    """One flat token-major cache.

    Attributes:
        tensor: What gather reads and scatter writes, ``[rows, *row_shape]``; row ``s`` is slot ``s``. The base
            of the registered view where it can be had: on HPU a write through a view becomes a copy of the
            whole base (bridge: habana_kernels/lazy_kernels.h, strided_insert).
        row_shape: Shape of one row, ``(heads, head_size)`` or ``(head_size,)``.
        is_base: Whether ``tensor`` is written directly, not through a view.
    """

    tensor: torch.Tensor
    row_shape: tuple[int, ...]
    is_base: bool


@dataclass(frozen=True)
class Section:
    """The planes that belong to one tensor of a memory object.

    Attributes:
        planes: ``kv * layers`` planes, K of every layer first, then V.
        layers: Indices of the layers, ascending.
        kv: 2 for K and V, 1 for a latent (MLA) cache.
        width: Elements a row.
        dtype: Element type, the same in cache and memory object; bits are moved, never converted.
    """

    planes: tuple[Plane, ...]
    layers: tuple[int, ...]
    kv: int
    width: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row of one plane."""
        return self.width * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token over all planes of the section."""
        return self.row_bytes * len(self.planes)

    def shape(self, tokens: int) -> tuple[int, int, int, int]:
        """Return the shape of the memory object's tensor for ``tokens`` tokens: ``(kv, layers, tokens, width)``."""
        return (self.kv, len(self.layers), tokens, self.width)


@dataclass(frozen=True)
class Layout:
    """All caches of a worker.

    Attributes:
        sections: One for each tensor of a memory object; layers of equal kind share one.
        slots: Valid slots are ``0 .. slots - 1``.
        pad: First slot and number of slots of a padding block that no request owns, or None if not known.
        device: Where the caches are.
        shared: Layers that are in no section, because they use the caches of another layer.
    """

    sections: tuple[Section, ...]
    slots: int
    pad: tuple[int, int] | None
    device: torch.device
    shared: tuple[int, ...] = ()

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token over all layers."""
        return sum(section.token_bytes for section in self.sections)

    @property
    def through_views(self) -> int:
        """Return the number of planes that can only be written through a view."""
        return sum(not plane.is_base for section in self.sections for plane in section.planes)

    def describe(self) -> str:
        """One line for logs."""
        kinds = ", ".join(
            f"{len(s.layers)} layers x {s.kv} x {s.width} {str(s.dtype).removeprefix('torch.')}" for s in self.sections
        )
        pad = "no known padding block" if self.pad is None else f"padding block at slot {self.pad[0]}"
        shared = f"; {len(self.shared)} layers more use the caches of these" if self.shared else ""
        return f"{kinds}{shared}; {self.slots} slots; {pad}; {self.token_bytes} bytes per token"


def host_dtype(dtype: torch.dtype) -> torch.dtype:
    """Integer type of the same size: what rows are moved as on the host, so that no bit can change."""
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def first_tensor(kvcaches: Sequence[Any]) -> torch.Tensor | None:
    """Return K or the latent cache of the first layer, None if it has no tensor."""
    import torch

    entry = kvcaches[0] if kvcaches else None
    while isinstance(entry, (tuple, list)) and entry:
        entry = entry[0]
    return entry if isinstance(entry, torch.Tensor) else None


def same_caches(mine: Any, other: Any) -> bool:
    """Return whether two entries, or lists of them, are the same tensors; forward contexts wrap the same ones anew."""
    if mine is other:
        return True
    if isinstance(mine, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(mine) == len(other) and all(map(same_caches, mine, other))
    return False


def normalise(kvcaches: Sequence[Any], *, bitcast: bool = False) -> Layout:
    """Normalise the KV caches of all layers.

    Args:
        kvcaches: One entry a layer, in layer order, as vLLM registers them.
        bitcast: Treat elements as integers of their size, for a device that cannot move every dtype.

    Returns:
        The layout. Layers of equal (kv, width, dtype) share a section; sections are ordered by first layer.

    Raises:
        LayoutError: The caches cannot be served, with layer and reason.
    """
    if not kvcaches:
        raise LayoutError("no KV caches were registered")
    kinds: dict[tuple[int, int, torch.dtype], list[tuple[int, list[Plane]]]] = {}
    capacities: set[int] = set()
    pads: set[tuple[int, int] | None] = set()
    devices: set[torch.device] = set()
    allocations = _Allocations()
    shared = []
    for index, entry in enumerate(kvcaches):
        planes = []
        tensors = _tensors(index, entry)
        if allocations.holds(index, tensors):
            shared.append(index)
            continue
        for tensor in tensors:
            plane, slots, pad = _plane(index, tensor, latent=len(tensors) == 1, bitcast=bitcast)
            planes.append(plane)
            capacities.add(slots)
            pads.add(pad)
            devices.add(tensor.device)
        widths = {(math.prod(plane.row_shape), tensor.dtype) for plane, tensor in zip(planes, tensors, strict=True)}
        if len(widths) != 1:
            raise LayoutError(f"layer {index}: K and V differ in width or dtype; one memory object cannot hold both")
        ((width, dtype),) = widths
        kinds.setdefault((len(planes), width, dtype), []).append((index, planes))
    if len(devices) != 1:
        raise LayoutError(f"KV caches are on several devices: {', '.join(sorted(map(str, devices)))}")
    if len(capacities) != 1:
        raise LayoutError(
            f"layers have different numbers of slots ({sorted(capacities)}): they do not share one block table, "
            "and LMCache gives one slot mapping for all layers"
        )
    return Layout(
        sections=tuple(_section(*kind, members) for kind, members in kinds.items()),
        slots=capacities.pop(),
        pad=pads.pop() if len(pads) == 1 else None,
        device=devices.pop(),
        shared=tuple(shared),
    )


class _Allocations:
    """Which layer's caches lie in which allocation, told without addresses.

    The storage of a lazy tensor begins without memory (bridge: habana_lazy/aten_lazy_bridge.cpp:28-40), so that its
    pointer says nothing. What PyTorch itself knows does: the base of a view, and the identity of a storage.
    """

    def __init__(self) -> None:
        self._owners: dict[int, tuple[int, torch.Tensor]] = {}
        self._layers: dict[int, int] = {}
        self._known: set[tuple[Any, ...]] = set()

    def holds(self, index: int, tensors: Sequence[torch.Tensor]) -> bool:
        """Return whether these are the very caches of an earlier layer; otherwise enter them.

        Raises:
            LayoutError: A cache shares its allocation with another one, and is not the same.
        """
        places = tuple(self._place(tensor) for tensor in tensors)
        if places in self._known:
            return True
        for allocation, *_ in places:
            if allocation in self._layers:
                other = self._layers[allocation]
                shared = "K and V share an allocation" if other == index else f"shares an allocation with layer {other}"
                raise LayoutError(
                    f"layer {index}: {shared} (a packed layout?). vllm-gaudi gives every K and V an allocation of its "
                    "own; what else lies between the rows of this one is not known"
                )
            self._layers[allocation] = index
        self._known.add(places)
        return False

    def _place(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        owner = tensor._base if tensor._base is not None else tensor
        # The owner is kept: the identity of what is gone may be given to something else.
        number, _ = self._owners.setdefault(owner.untyped_storage()._cdata, (len(self._owners), owner))
        return (number, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _section(kv: int, width: int, dtype: torch.dtype, members: list[tuple[int, list[Plane]]]) -> Section:
    return Section(
        planes=tuple(planes[side] for side in range(kv) for _, planes in members),
        layers=tuple(index for index, _ in members),
        kv=kv,
        width=width,
        dtype=dtype,
    )


def _tensors(index: int, entry: Any) -> list[torch.Tensor]:
    """Return the tensors of a layer, K and V or the latent one; everything else in the entry is refused."""
    import torch

    if isinstance(entry, torch.Tensor):
        if entry.dim() in (2, 3):
            return [entry]
        if entry.dim() == 4:
            raise LayoutError(
                f"layer {index}: a single 4-D tensor {list(entry.shape)}, so K without V, or both packed into one as "
                "vLLM 0.26 does on other devices. vllm-gaudi hands over K alone when the KV cache is quantised with "
                "dynamic scales (VLLM_DYNAMIC_KV_QUANT); V and the scales would be lost. Use static scales or an "
                "unquantised KV cache"
            )
        raise LayoutError(f"layer {index}: a {entry.dim()}-D tensor {list(entry.shape)} is not a layout of vllm-gaudi")
    if not isinstance(entry, (tuple, list)) or not entry or not isinstance(entry[0], torch.Tensor):
        raise LayoutError(f"layer {index}: {type(entry).__name__} is not a KV cache (a hybrid or state-space layer?)")
    key, *others = entry
    value = others[0] if others else None
    if any(extra is not None for extra in others[1:]):
        raise LayoutError(
            f"layer {index}: scale tensors come with K and V (dynamic KV quantisation). A memory object holds K and V "
            "only, so restored blocks would be read with the scales of other tokens. Use static scales or an "
            "unquantised KV cache"
        )
    if value is None:
        if key.dim() in (2, 3):
            return [key]
        raise LayoutError(f"layer {index}: K {list(key.shape)} without V")
    if not isinstance(value, torch.Tensor):
        raise LayoutError(f"layer {index}: V is a {type(value).__name__}, not a tensor (dynamic KV quantisation?)")
    if key.dim() != value.dim() or key.dim() not in (3, 4):
        raise LayoutError(
            f"layer {index}: K {list(key.shape)} and V {list(value.shape)} are neither flat [slots, heads, head_size] "
            "nor [blocks, block_size, heads, head_size]"
        )
    return [key, value]


def _plane(
    index: int, tensor: torch.Tensor, *, latent: bool, bitcast: bool
) -> tuple[Plane, int, tuple[int, int] | None]:
    """Flatten one cache tensor: the plane, its number of slots, and the padding block behind it."""
    if not tensor.is_contiguous():
        raise LayoutError(
            f"layer {index}: a cache of shape {list(tensor.shape)} and strides {list(tensor.stride())} is not "
            "contiguous (a permuted HND cache?); rows must be token-major"
        )
    blocked = tensor.dim() == 4 or (tensor.dim() == 3 and latent)
    slots = tensor.shape[0] * tensor.shape[1] if blocked else tensor.shape[0]
    row_shape = tuple(tensor.shape[2 if blocked else 1 :])
    if slots == 0 or math.prod(row_shape) == 0:
        raise LayoutError(f"layer {index}: an empty cache {list(tensor.shape)}")
    if tensor.storage_offset():
        raise LayoutError(
            f"layer {index}: a cache that begins at element {tensor.storage_offset()} of its allocation (a packed "
            "layout?). vllm-gaudi gives every K and V an allocation of its own"
        )
    target, is_base, pad = tensor, True, None
    base = tensor._base
    if base is not None and _same_rows(base, tensor, math.prod(row_shape)):
        target = base
        if base.shape[0] > slots:
            pad = (slots, base.shape[0] - slots)
    elif base is not None:
        is_base = False
    if target.shape[1:] != row_shape:
        if math.prod(target.shape[1:]) == math.prod(row_shape):
            row_shape = tuple(target.shape[1:])
        else:
            target, is_base = target.view(slots, *row_shape), False
    if bitcast:
        target = target.view(host_dtype(target.dtype))
    return Plane(tensor=target, row_shape=row_shape, is_base=is_base), slots, pad


def _same_rows(base: torch.Tensor, view: torch.Tensor, width: int) -> bool:
    """Whether row ``s`` of ``base`` is row ``s`` of the flattened ``view``, which PyTorch knows as a view of it."""
    return (
        base.dtype == view.dtype
        and base.is_contiguous()
        and base.dim() >= 2
        and math.prod(base.shape[1:]) == width
        and base.storage_offset() == 0
        and view.storage_offset() == 0
        and base.numel() >= view.numel()
    )
