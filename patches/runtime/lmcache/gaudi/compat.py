# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Differences between the LMCache releases 0.3.7 to 0.5.6; no other module checks for them.

* ``lmcache.v1.gpu_connector`` is a module up to 0.3.13 and a package after; both export the interface.
* Memory objects have ``get_tensor(i)`` from 0.3.12 on, when they began to hold several tensors.
* ``metadata.get_shapes`` and ``metadata.kv_layer_groups_manager`` exist from 0.3.12 on; how the manager is made
  differs.
* ``metadata.chunk_size`` exists from 0.3.12 on; before, only ``kv_shape`` tells.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .layout import Layout, LayoutError

if TYPE_CHECKING:
    import torch

__all__ = [
    "allocation",
    "chunk_size",
    "header_bytes",
    "kept_seconds",
    "knows_resumed_requests",
    "object_shapes",
    "object_tensors",
    "payload_bytes",
    "pool_alignment",
    "pool_bytes",
    "pool_gigabytes",
    "reconcile",
    "tag_format",
    "taken_once",
    "unpins_lists",
]


def chunk_size(config: Any, metadata: Any) -> int:
    """Return LMCache's chunk size in tokens."""
    size = getattr(config, "chunk_size", None) or metadata.kv_shape[2]
    return int(size)


def object_tensors(memory_obj: Any, count: int) -> list[torch.Tensor]:
    """Return the tensors of a memory object, ``[kv, layers, tokens, width]`` each.

    Raises:
        ValueError: The object has no tensor: freed, or in a format that is no KV cache.
    """
    tensors = [memory_obj.tensor] if count == 1 else [memory_obj.get_tensor(number) for number in range(count)]
    if any(tensor is None for tensor in tensors):
        raise ValueError("a memory object without a tensor: it was freed, or holds no KV cache")
    return tensors


def tag_format(memory_obj: Any, *, mla: bool, check: bool) -> None:
    """Check, or set, the memory format that goes with the layout.

    Raises:
        ValueError: ``check``, and the object has another format.
    """
    from ..v1.memory_management import MemoryFormat

    expected = MemoryFormat.KV_MLA_FMT if mla else MemoryFormat.KV_2LTD
    if not check:
        memory_obj.metadata.fmt = expected
    elif memory_obj.metadata.fmt != expected:
        raise ValueError(f"a memory object in format {memory_obj.metadata.fmt}, where the layers need {expected}")


def reconcile(metadata: Any, layout: Layout) -> None:
    """Make LMCache allocate memory objects that fit the layout.

    For equal layers LMCache does so by itself, from the model's configuration. Otherwise its layer groups
    are set from the layout, in the releases that have them.

    Args:
        metadata: LMCache's engine metadata.
        layout: The registered caches.

    Raises:
        LayoutError: Memory objects of this release cannot hold these caches.
    """
    tokens = 1
    if not metadata.use_mla and any(section.kv == 1 for section in layout.sections):
        raise LayoutError(
            f"the KV caches ({layout.describe()}) are one tensor per layer, and the model is no MLA model: K and V are "
            "packed into one tensor in an order that is not known here (vLLM 0.26 does so on other devices)"
        )
    expected = [tuple(section.shape(tokens)) for section in layout.sections]
    dtypes = [section.dtype for section in layout.sections]
    if not hasattr(metadata, "get_shapes"):
        layers, kv, _, heads, size = metadata.kv_shape
        if expected != [(kv, layers, tokens, heads * size)] or dtypes != [metadata.kv_dtype]:
            raise LayoutError(
                f"the KV caches ({layout.describe()}) are not what the model's configuration gives "
                f"(kv_shape {tuple(metadata.kv_shape)}, {metadata.kv_dtype}), and memory objects of this LMCache "
                "release hold one kind of layer only"
            )
        return
    metadata.kv_layer_groups_manager = _default(metadata, "kv_layer_groups_manager")
    if _allocated(metadata, tokens) == (expected, dtypes):
        return
    metadata.kv_layer_groups_manager = _groups(metadata, layout)
    if _allocated(metadata, tokens) != (expected, dtypes):
        raise LayoutError(
            f"the KV caches ({layout.describe()}) are not what the model's configuration gives "
            f"(use_mla {metadata.use_mla}), and memory objects of this LMCache release cannot hold them"
        )


def _allocated(metadata: Any, tokens: int) -> tuple[list[tuple[int, ...]], Sequence[torch.dtype]]:
    return [tuple(shape) for shape in metadata.get_shapes(tokens)], list(metadata.get_dtypes())


def _groups(metadata: Any, layout: Layout) -> Any:
    """Return LMCache's own manager of layer groups for the layout.

    It is made by its constructor from tensors without memory, in the layout of vLLM's flash attention with blocks of
    one slot, so that it answers whatever a reader asks of it. Releases up to 0.4.4 build it after the fact.

    Raises:
        LayoutError: The constructor of this release cannot describe these caches.
    """
    import torch

    from ..v1 import gpu_connector
    from ..v1.kv_layer_groups import KVLayerGroupsManager

    caches: Any = [
        torch.empty(
            (2, layout.slots, 1, 1, section.width) if section.kv == 2 else (layout.slots, 1, section.width),
            dtype=section.dtype,
            device="meta",
        )
        for _, section in sorted((layer, section) for section in layout.sections for layer in section.layers)
    ]
    parameters = inspect.signature(KVLayerGroupsManager.__init__).parameters
    if "kv_caches" not in parameters:
        manager = KVLayerGroupsManager()
        manager.build_kv_layer_groups({str(layer): cache for layer, cache in enumerate(caches)})
        return manager
    from ..utils import EngineType  # these releases have it; 0.3.12 to 0.3.14 do not

    size = {name: metadata.chunk_size for name in parameters if name.startswith("lmcache_")}
    find = importlib.import_module(f"{gpu_connector.__name__}.utils")
    try:
        if "engine_kv_formats" in parameters:
            groups = [list(section.layers) for section in layout.sections]
            caches, formats = find.normalize_and_discover_per_layer_formats(caches, groups, EngineType.VLLM)
            return KVLayerGroupsManager(caches, formats, separate_object_groups=False, **size)
        kind, caches = find.normalize_kv_and_discover_format(caches, EngineType.VLLM)
        return KVLayerGroupsManager(caches, kind, layout.slots, **size)
    except (IndexError, ValueError) as error:
        raise LayoutError(
            f"the layer groups of this LMCache release cannot describe the KV caches ({layout.describe()}): {error}"
        ) from error


def _default(metadata: Any, name: str) -> Any:
    """Return what ``metadata`` has in the field ``name`` before vLLM registers its caches."""
    field = next(field for field in dataclasses.fields(metadata) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def object_shapes(metadata: Any, tokens: int) -> tuple[list[tuple[int, ...]], list[torch.dtype]]:
    """Return the shapes and dtypes of the tensors of a memory object that holds ``tokens`` tokens."""
    if hasattr(metadata, "get_shapes"):
        return _allocated(metadata, tokens)[0], list(metadata.get_dtypes())
    layers, kv, _, heads, size = metadata.kv_shape
    return [(kv, layers, tokens, heads * size)], [metadata.kv_dtype]


def allocation(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> tuple[Any, Any]:
    """Return the arguments of LMCache's ``allocate``; lists of several only where there are several kinds of layers."""
    import torch

    sizes = [torch.Size(shape) for shape in shapes]
    return (sizes[0], dtypes[0]) if len(sizes) == 1 else (sizes, dtypes)


def header_bytes(connector: Any) -> int:
    """Return the length of the header in the files of LMCache's file connector; 0 where chunks are stored without."""
    if not getattr(connector, "save_chunk_meta", True):
        return 0
    return int(getattr(connector, "remote_metadata_bytes", 0)) or 28  # a constant before 0.3.12: seven 32-bit numbers


def payload_bytes(header: bytes) -> int | None:
    """Return the length of what follows a header in a file; None if it is not one."""
    from ..v1.protocol import RemoteMetadata

    try:
        length = int(RemoteMetadata.deserialize(header).length)
    except Exception:  # releases' parsers raise different errors for bytes that are not a header
        return None
    return length if length >= 0 else None


def pool_bytes(engine: Any) -> int | None:
    """Return the size of LMCache's pool in host memory; None if it is not made yet.

    Up to 0.3.11 it is made before the caches are registered, later after that.
    """
    manager = getattr(engine, "storage_manager", None)
    backend = getattr(manager, "storage_backends", {}).get("LocalCPUBackend")
    size = getattr(getattr(backend, "memory_allocator", None), "size", None)
    return size if isinstance(size, int) else None


def pool_gigabytes(config: Any, metadata: Any, size: float) -> float:
    """Return how large LMCache will make a pool that is to have ``size`` gigabytes; 0 where it would give up.

    From 0.3.9 on it gives the one pool of a latent-attention model what the host has left, less a reserve.
    """
    if metadata is None:
        return size
    calculate = getattr(_host_backend(), "_calculate_effective_cpu_size", None)
    if calculate is None:
        return size
    try:
        return float(calculate(None, size, config, metadata))
    except AssertionError:
        return 0.0


def pool_alignment(config: Any) -> int | None:
    """Return the alignment of objects in LMCache's pool as it is configured; None: LMCache's own."""
    if not getattr(config, "extra_config", None):
        return None
    backend = _host_backend()
    resolve = getattr(backend, "_resolve_local_cpu_allocator_alignment", None)  # from 0.3.15 on
    return resolve(backend, config) if resolve is not None else None


def _host_backend() -> Any:
    return importlib.import_module("lmcache.v1.storage_backend.local_cpu_backend").LocalCPUBackend


def kept_seconds(config: Any) -> float:
    """Return how long LMCache keeps what a lookup has pinned for a request that does not come; before 0.3.12, 300 s."""
    return float(getattr(config, "pin_timeout_sec", None) or 300.0)


def unpins_lists(engine: Any) -> bool:
    """Return whether ``lookup_unpin`` takes a list of lookups, as in 0.3.7, and not one."""
    return "lookup_ids" in inspect.signature(engine.lookup_unpin).parameters


def knows_resumed_requests(adapter: type) -> bool:
    """Return whether this release's vLLM adapter tells resumed requests from others; 0.3.7 does not."""
    code = inspect.unwrap(adapter.build_connector_meta).__code__  # type: ignore[attr-defined]
    words = (*code.co_names, *(value for value in code.co_consts if isinstance(value, str)))
    return any("resumed" in word for word in words)


def taken_once(
    original: Callable[..., Any], retrieve: Callable[..., Any], applies: Callable[[Any], bool]
) -> Callable[..., Any]:
    """Wrap ``LMCacheEngine._async_process_tokens_internal``: what asynchronous loading has prefetched is released once.

    From 0.4.1 on, LMCache leaves the prefetch in its books when a load takes it (``get_event_future`` keeps it), and
    the end of the same step releases all of it (``wait_for_save``, ``lookup_unpin``, ``cleanup_memory_objs``). Some of
    it was released by then:

    * from 0.5.2 on, all that was loaded (``retrieve``);
    * chunks that the load left out, since vLLM has them itself (``_async_process_tokens_internal``);
    * where a store gave less than it had said, what the stores behind it gave (``prefetch_all_done_callback``).

    Memory that the cache still lists is free then, and the next hit on it ends the engine; memory that was freed
    already is freed once more, whoever has it now.

    Args:
        original: The method.
        retrieve: ``LMCacheEngine.retrieve``, which calls it.
        applies: Whether an engine is to behave differently.

    Returns:
        The method; when it returns, LMCache's books have what the end of the step must release, and nothing else.
    """
    # It unpins what it releases.
    releases = "unpin" in inspect.unwrap(retrieve).__code__.co_names

    def process_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not applies(self) or not hasattr(self.event_manager, "get_event_future"):  # the others pop it
            return original(self, *args, **kwargs)
        tiers = _prefetched(self.event_manager, kwargs["req_id"])
        for tier in tiers:
            tier[:] = [(key, memory_obj) for key, memory_obj in tier if memory_obj.get_ref_count() > 0]
        chunks, size = original(self, *args, **kwargs)
        used = {id(chunk[1]) for chunk in chunks}
        for memory_obj in [memory_obj for tier in tiers for _, memory_obj in tier]:
            if id(memory_obj) not in used and memory_obj.is_pinned:
                memory_obj.unpin()
        for tier in tiers:
            tier[:] = [entry for entry in tier if id(entry[1]) in used]
        if tiers and releases:
            self.event_manager.pop_event(_events().EventType.LOADING, kwargs["req_id"])
        return chunks, size

    return process_tokens


def _prefetched(events: Any, request: str) -> list[list[tuple[Any, Any]]]:
    """Return LMCache's own lists of keys and memory objects, by store; none where no prefetch has come to its end."""
    module = _events()
    if events.get_event_status(module.EventType.LOADING, request) != module.EventStatus.DONE:
        return []
    future = events.get_event_future(module.EventType.LOADING, request)
    if future.cancelled() or future.exception() is not None:
        return []
    return list(future.result())


def _events() -> Any:
    return importlib.import_module("lmcache.v1.event_manager")
