# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""Allocate and hand over KV caches exactly like vllm-gaudi.

Sources, all in ``vllm_gaudi/v1/worker/hpu_model_runner.py``: ``initialize_kv_cache`` (v0.26.0:6764-6842,
v0.13.0:4891-4970), ``get_kv_caches_4D`` (v0.26.0:6958-6978 without the pad block, v0.17.1:6456-6468 with it),
``TensorTuple`` (v0.26.0:7297-7370); shapes in ``attention/ops/hpu_paged_attn.py`` and, for MLA,
``attention/backends/hpu_attn.py:112-120``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .foreign import Foreign

Cache = tuple[Foreign, ...]


class TensorTuple(tuple):  # type: ignore[type-arg]
    """A tuple of tensors of one shape, dtype and device, with its own ``shape``, ``dtype`` and ``device``.

    A tuple of ``n`` tensors of shape ``s`` has shape ``(n, *s)``. It has no other tensor attributes: code that treats
    it as a tensor fails, as under vllm-gaudi.
    """

    shape: tuple[int, ...]
    dtype: Foreign
    device: Foreign

    def __new__(cls, tensors: tuple[Foreign, ...]) -> TensorTuple:
        instance = super().__new__(cls, tensors)
        first = tensors[0]
        if any((t.shape, t.dtype, t.device) != (first.shape, first.dtype, first.device) for t in tensors):
            raise ValueError("the tensors differ in shape, dtype or device")
        instance.shape = (len(tensors), *first.shape)
        instance.dtype = first.dtype
        instance.device = first.device
        return instance


class DelegatingTensorTuple(TensorTuple):
    """The tuple of vllm-gaudi from 0.24 on."""

    def untyped_storage(self) -> Foreign:
        """Return the first tensor's storage."""
        return self[0].untyped_storage()

    def data_ptr(self) -> int:
        """Return the first tensor's address."""
        return int(self[0].data_ptr())


class CacheHolder:
    """A stand-in for an attention layer in vLLM's forward context, with only ``kv_cache``."""

    def __init__(self) -> None:
        self.kv_cache: Foreign = None

    def bind_kv_cache(self, kv_cache: Foreign) -> None:
        """Set ``kv_cache``, as later releases of vLLM do (seen in 0.32)."""
        self.kv_cache = kv_cache


def allocate(
    *,
    num_blocks: int,
    block_size: int,
    heads: int,
    head_size: int,
    dtype: Foreign,
    use_mla: bool,
    release: tuple[int, ...],
) -> Cache:
    """Allocate one layer's cache: flat in slots, with an extra pad block at the end that vLLM does not know of.

    K and V are ``[(num_blocks + 1) * block_size, heads, head_size]``; MLA's only tensor is
    ``[(num_blocks + 1) * block_size, head_size]``. Two entries up to 0.11.2, four (with scales, here None) from 0.13.
    """
    slots = (num_blocks + 1) * block_size
    shape = (slots, head_size) if use_mla else (slots, heads, head_size)
    key = torch.zeros(shape, dtype=dtype, device="hpu")
    value = None if use_mla else torch.zeros(shape, dtype=dtype, device="hpu")
    return (key, value) if release < (0, 13) else (key, value, None, None)


def hand_over(
    caches: Mapping[str, Cache], *, num_blocks: int, block_size: int, release: tuple[int, ...]
) -> dict[str, Foreign]:
    """Return the argument of ``register_kv_caches``: block views ``[num_blocks, block_size, ...]`` of the flat
    tensors.

    Each layer has a TensorTuple of K and V, or MLA's single tensor. The pad block is included up to 0.17.1.
    """
    kind = DelegatingTensorTuple if release >= (0, 24) else TensorTuple
    given: dict[str, Foreign] = {}
    for name, cache in caches.items():
        views = []
        for tensor in cache:
            if tensor is None:
                continue
            view = tensor.view(-1, block_size, *tensor.shape[1:])
            views.append(view if release < (0, 18) else view[:num_blocks])
        given[name] = kind(tuple(views)) if len(views) == 2 else views[0]
    return given
