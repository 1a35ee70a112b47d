# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""LMCache's connector interface, for vLLM on Gaudi. One class for all LMCache releases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..logging import init_logger
from ..v1.gpu_connector import GPUConnectorInterface
from . import allocator, compat, numa
from .device import DEVICE, backend_for
from .guards import refuse_config, refuse_hybrid_on_disk, refuse_partial_lookups
from .layout import Layout, first_tensor, normalise, same_caches
from .plugin import refuse_engine
from .transfer import Settings, Transfer

__all__ = ["GaudiConnector", "create_connector"]

logger = init_logger(__name__)


class GaudiConnector(GPUConnectorInterface):  # type: ignore[misc]
    """Moves KV between LMCache's memory objects and vLLM's paged cache on HPU.

    The caches are known only once vLLM has allocated them. They are checked, and every graph is compiled, when
    they are registered (:meth:`initialize_kvcaches_ptr`), or at the first request where vLLM registers none.

    Args:
        config: LMCache's engine configuration.
        metadata: LMCache's engine metadata.
        settings: Sizes; default: from the environment.

    Attributes:
        load_stream: None, "the current stream": LMCache then orders its broadcasts by it and makes no CUDA stream.
    """

    load_stream: None = None

    def __init__(self, config: Any, metadata: Any, settings: Settings | None = None) -> None:
        self.config = config
        self.metadata = metadata
        self.chunk_size = compat.chunk_size(config, metadata)
        self.settings = settings or Settings.from_environment()
        self.kvcaches: list[Any] | None = None
        self.transfer: Transfer | None = None

    def initialize_kvcaches_ptr(self, **kwargs: Any) -> None:
        """Take the KV caches, ``kvcaches=[...]``, one entry a layer; does nothing for the ones it has.

        Raises:
            LayoutError: These caches cannot be served.
            GaudiError: vLLM would move blocks, or read others; or a storage backend cannot hold these caches.
        """
        kvcaches = kwargs.get("kvcaches")
        if kvcaches is None or self._has(kvcaches):
            return
        refuse_engine(kvcaches, kwargs.get("vllm_config"))
        first = first_tensor(kvcaches)
        backend = backend_for(torch.device(DEVICE) if first is None else first.device)
        layout = normalise(kvcaches, bitcast=backend.bitcast)
        refuse_hybrid_on_disk(self.config, len(layout.sections))
        compat.reconcile(self.metadata, layout)
        direct = len(layout.sections) == 1 and allocator.one_buffer_reason(self.config) is None
        transfer = Transfer(layout, chunk=self.chunk_size, settings=self.settings, backend=backend, direct=direct)
        if direct:
            allocator.serve(layout.token_bytes * self.chunk_size, backend)
        transfer.report(logger)
        if self.settings.warm_up:
            # With several ranks LMCache broadcasts MLA objects from one to the others, on the device.
            transfer.warm_up(resident=_is_mla(layout) and self.metadata.world_size > 1)
        self.kvcaches, self.transfer = list(kvcaches), transfer

    @property
    def has_no_peers(self) -> bool:
        """Whether this is the only rank; LMCache's engine asks before it broadcasts MLA objects, to itself then."""
        return bool(self.metadata.world_size == 1)

    def reads(self, memory_obj: Any) -> bool:
        """Return whether a memory object is in the format that a load expects; other hosts may store others."""
        mla = bool(self.metadata.use_mla) if self.transfer is None else _is_mla(self.transfer.layout)
        try:
            compat.tag_format(memory_obj, mla=mla, check=True)
        except ValueError:
            return False
        return True

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        """Load one memory object; see :meth:`batched_to_gpu`."""
        self.batched_to_gpu([memory_obj], [start], [end], **kwargs)

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        """Store into one memory object; see :meth:`batched_from_gpu`."""
        self.batched_from_gpu([memory_obj], [start], [end], **kwargs)

    def batched_to_gpu(
        self,
        memory_objs: Sequence[Any] | None = None,
        starts: Sequence[int] | None = None,
        ends: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Load memory objects into the paged cache; done on return.

        Args:
            memory_objs: The objects, on the host, or on the device after a broadcast.
            starts: First token of each object in the request.
            ends: One past the last token of each object.
            **kwargs: ``slot_mapping``: slot of every token of the request; below 0: not written.
                ``vllm_cached_tokens``: leading tokens that vLLM has itself; their blocks are not written.
                ``kvcaches``: the caches, unless registered before.

        Raises:
            ValueError: An argument is missing, or an object does not fit the caches.
            IndexError: A slot outside the caches.
        """
        transfer, objects, spans, slots = self._request(memory_objs, starts, ends, kwargs, check=True)
        transfer.load(objects, spans, slots, skip=int(kwargs.get("vllm_cached_tokens") or 0))

    def batched_from_gpu(
        self, memory_objs: Sequence[Any], starts: Sequence[int], ends: Sequence[int], **kwargs: Any
    ) -> None:
        """Store the paged cache into memory objects; complete on return.

        Args:
            memory_objs: The objects, on the host.
            starts: First token of each object in the request.
            ends: One past the last token of each object.
            **kwargs: ``slot_mapping`` and ``kvcaches`` as for :meth:`batched_to_gpu`.

        Raises:
            ValueError: An argument is missing, or an object does not fit the caches.
            IndexError: A slot outside the caches.
        """
        transfer, objects, spans, slots = self._request(memory_objs, starts, ends, kwargs, check=False)
        transfer.store(objects, spans, slots)
        mla = _is_mla(transfer.layout)
        for memory_obj in memory_objs:
            compat.tag_format(memory_obj, mla=mla, check=False)

    def get_shape(self, num_tokens: int) -> torch.Size:
        """Return the shape of a memory object's tensor, ``[kv, layers, num_tokens, width]``.

        Raises:
            NotImplementedError: Layers of several kinds: an object then has several tensors.
        """
        if self.transfer is None:
            layers, kv, _, heads, size = self.metadata.kv_shape
            return torch.Size((kv, layers, num_tokens, heads * size))
        sections = self.transfer.layout.sections
        if len(sections) != 1:
            raise NotImplementedError(f"{len(sections)} kinds of layers; use metadata.get_shapes")
        return torch.Size(sections[0].shape(num_tokens))

    def _request(
        self,
        memory_objs: Sequence[Any] | None,
        starts: Sequence[int] | None,
        ends: Sequence[int] | None,
        kwargs: dict[str, Any],
        *,
        check: bool,
    ) -> tuple[Transfer, list[list[torch.Tensor]], list[tuple[int, int]], torch.Tensor]:
        if memory_objs is None or starts is None or ends is None:
            raise ValueError("memory objects, starts and ends are required; layerwise calls are not served on HPU")
        self.initialize_kvcaches_ptr(**kwargs)
        if self.transfer is None:
            raise ValueError("'kvcaches' must be registered, or given with the request")
        slots = kwargs.get("slot_mapping")
        if slots is None:
            raise ValueError("'slot_mapping' must be given with the request")
        layout = self.transfer.layout
        if check:
            for memory_obj in memory_objs:
                compat.tag_format(memory_obj, mla=_is_mla(layout), check=True)
        objects = [compat.object_tensors(memory_obj, len(layout.sections)) for memory_obj in memory_objs]
        return self.transfer, objects, list(zip(starts, ends, strict=True)), torch.as_tensor(slots)

    def _has(self, kvcaches: Sequence[Any]) -> bool:
        return self.kvcaches is not None and same_caches(self.kvcaches, list(kvcaches))


def create_connector(config: Any, metadata: Any, engine: Any) -> GaudiConnector:
    """Return the connector for this configuration; LMCache calls this on HPU instead of a CUDA connector.

    Raises:
        GaudiError: The configuration asks for what cannot work on HPU.
    """
    refuse_config(config, getattr(engine, "name", str(engine)))
    refuse_partial_lookups(config, metadata)
    numa.choose_node(config, metadata)
    return GaudiConnector(config, metadata)


def _is_mla(layout: Layout) -> bool:
    return all(section.kv == 1 for section in layout.sections)
