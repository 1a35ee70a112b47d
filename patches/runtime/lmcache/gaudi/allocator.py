# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""LMCache's allocator of memory objects, with a slab for each whole object instead of one large buffer.

LMCache's own bookkeeping decides which object lies where, when the pool is full and what the statistics say; its
"buffer" is a tensor without memory (device ``meta``), as large as the pool. Only the memory behind an object comes
from :mod:`.slabs`. So addresses, eviction, reference counts and statistics are LMCache's, call for call.
"""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from .device import is_available
from .slabs import Slab, Slabs, pin_settings

if TYPE_CHECKING:
    from .device import Backend

__all__ = ["memory_pool", "one_buffer_reason", "serve"]

#: Schemes of remote stores that handle one memory object at a time, independent of its neighbours.
_OBJECT_STORES = frozenset({"blackhole", "fs", "lm", "redis", "rediss", "redis-sentinel", "s3", "valkey"})
#: Extra settings that register the pool, map it elsewhere or align it.
_BUFFER_SETTINGS = ("shm_name", "use_odirect", "fs_connector_use_odirect", "local_cpu.pinned_align_bytes")
_BUFFER_PREFIXES = ("rust_raw_block.", "dax.", "devdax", "maru", "enable_nixl")

_lock = threading.Lock()
_pools: weakref.WeakSet[Slabs] = weakref.WeakSet()
_served: tuple[int, Backend] | None = None


def memory_pool(config: Any, allocator_class: type) -> type:
    """Return the class of the local CPU pool: LMCache's own, or on HPU one that pins its objects one by one.

    Args:
        config: LMCache's engine configuration.
        allocator_class: ``MixedMemoryAllocator``.

    Returns:
        A class that takes the same arguments.
    """
    if not is_available():
        return allocator_class
    reason = one_buffer_reason(config) or _unknown(allocator_class)
    if reason is not None:
        _logger().info("LMCache's pool stays one buffer: %s; copies to the HPU go through the ring", reason)
        return allocator_class
    return _pool_class(allocator_class)


def one_buffer_reason(config: Any) -> str | None:
    """Return why LMCache's pool has to be one buffer with this configuration, or None if it need not be."""
    if pin_settings()[0] == 0:
        return "LMCACHE_GAUDI_PIN_MIB=0"
    extra = getattr(config, "extra_config", None) or {}
    for name in ("enable_p2p", "enable_pd", "gds_path", "weka_path", "maru_path", "local_cpu_use_hugepages"):
        if getattr(config, name, None):
            return f"{name} needs it"
    for name in ("storage_plugins", "external_backends"):
        if getattr(config, name, None):
            return f"{name} may register it"
    for plugin in getattr(config, "remote_storage_plugins", None) or ():
        # LMCache's own stores are named by their schemes; a plugin with its own module may be anything.
        if str(plugin).split(".")[0] not in _OBJECT_STORES or extra.get(f"remote_storage_plugin.{plugin}.module_path"):
            return f"remote_storage_plugins: {plugin} may register it"
    for name, value in extra.items():
        if value and (name in _BUFFER_SETTINGS or str(name).startswith(_BUFFER_PREFIXES)):
            return f"{name} needs it"
    url = getattr(config, "remote_url", None)
    scheme = str(url).split(":", 1)[0] if url else None
    if scheme is not None and scheme not in _OBJECT_STORES:
        return f"the remote store {scheme}:// may register it"
    return None


def serve(nbytes: int, backend: Backend) -> None:
    """Pin memory objects of ``nbytes`` bytes, whole chunks, in the pools of this process and in those to come.

    Called when the caches are registered: then the device is this process's own, and the size is known.
    """
    global _served
    with _lock:
        _served = nbytes, backend
        pools = list(_pools)
    for pool in pools:
        pool.serve(_aligned(nbytes), backend)


def _unknown(allocator_class: type) -> str | None:
    """Return what of this release's allocator is not as known, or None."""
    module = sys.modules[allocator_class.__module__]
    for name in ("TensorMemoryAllocator", "BufferAllocator"):
        if not hasattr(module, name):
            return f"this release's {allocator_class.__module__} has no {name}"
    base = module.TensorMemoryAllocator
    missing = [name for name in ("allocate", "batched_allocate", "free", "batched_free") if name not in vars(base)]
    if missing or "tensor" not in inspect.signature(base.__init__).parameters:
        return f"this release's TensorMemoryAllocator is not a known one ({', '.join(missing) or 'its arguments'})"
    return None


def _aligned(nbytes: int) -> int:
    """Return the size of an object in LMCache's address space: multiples of 4096 bytes in all releases."""
    return -(-nbytes // 4096) * 4096


@cache
def _pool_class(allocator_class: type) -> type:
    module = sys.modules[allocator_class.__module__]
    objects = type("SlabTensorAllocator", (_ObjectsInSlabs, module.TensorMemoryAllocator), {})
    members = {"_objects_class": objects, "_buffer_allocator_class": module.BufferAllocator}
    return type("SlabMemoryAllocator", (_PoolOfSlabs, allocator_class), members)


class _PoolOfSlabs:
    """``MixedMemoryAllocator`` without its buffer; mixed into it."""

    _objects_class: Any
    _buffer_allocator_class: Any

    def __init__(self, size: int, **others: Any) -> None:
        pinned, ahead = pin_settings()
        # One lock for all: LMCache frees objects with and without its own, and Python frees them at any time.
        lock = threading.RLock()
        logger = _logger()
        self.slabs = Slabs(size, pinned=pinned, ahead=ahead, lock=lock, report=logger.info, warn=logger.warning)
        self.size = size
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.numa_mapping = others.get("numa_mapping")
        self.shm_name = None
        self.use_hugepages = False
        self._unregistered = True  # there is no buffer to free
        self.pin_allocator = self._objects_class(size, self.slabs, lock)
        self.align_bytes = self.pin_allocator.alignment
        # LMCache holds it around calls of pin_allocator, which has its own and lets go of it while memory is pinned.
        self.host_mem_lock = nullcontext()
        self.buffer_allocator = self._buffer_allocator_class("cpu")
        with _lock:
            _pools.add(self.slabs)
            served = _served
        if served is not None:
            self.slabs.serve(_aligned(served[0]), served[1])

    def close(self) -> None:
        """Drop the slabs; those of objects that are still in use go with them."""
        with _lock:
            _pools.discard(self.slabs)
        self.slabs.close()
        super().close()  # type: ignore[misc]


class _ObjectsInSlabs:
    """``TensorMemoryAllocator`` whose objects lie in slabs; mixed into it."""

    def __init__(self, size: int, slabs: Slabs, lock: threading.RLock) -> None:  # type: ignore[valid-type]
        super().__init__(torch.empty(size, dtype=torch.uint8, device="meta"))  # type: ignore[call-arg]
        self._slabs, self._slab_lock = slabs, lock
        #: By LMCache's address: the slab of an object, or the size of one in ordinary memory.
        self._at: dict[int, Slab | int] = {}
        self.alignment = int(getattr(self, "align_bytes", 4096))

    def allocate(self, *arguments: Any, **others: Any) -> Any:
        """Allocate one object as LMCache does; None if the pool is full."""
        with self._slab_lock:
            memory_obj = super().allocate(*arguments, **others)  # type: ignore[misc]
        return memory_obj if memory_obj is None else (self._furnish([memory_obj]) or [None])[0]

    def batched_allocate(self, *arguments: Any, **others: Any) -> Any:
        """Allocate objects of one size as LMCache does; None if the pool is full."""
        with self._slab_lock:
            memory_objs = super().batched_allocate(*arguments, **others)  # type: ignore[misc]
        return memory_objs if memory_objs is None else self._furnish(memory_objs)

    def free(self, memory_obj: Any, *arguments: Any, **others: Any) -> None:
        """Free one object as LMCache does."""
        with self._slab_lock:
            addresses = [memory_obj.meta.address] if memory_obj.is_valid() else []
            super().free(memory_obj, *arguments, **others)  # type: ignore[misc]
            self._take_back(addresses)

    def batched_free(self, memory_objs: list[Any], *arguments: Any, **others: Any) -> None:
        """Free objects as LMCache does."""
        with self._slab_lock:
            addresses = list({one.meta.address for one in memory_objs if one.is_valid()})
            super().batched_free(memory_objs, *arguments, **others)  # type: ignore[misc]
            self._take_back(addresses)

    def memcheck(self) -> Any:
        """Check the bookkeeping as LMCache does."""
        with self._slab_lock:
            return super().memcheck()  # type: ignore[misc]

    def _furnish(self, memory_objs: list[Any]) -> list[Any] | None:
        """Back objects that have an address with memory; free all of them and return None if there is none for one.

        No other thread has these objects yet, so the lock is not held while memory is pinned: other threads that
        allocate, free or copy meanwhile do not wait for it.
        """
        done = 0
        try:
            for memory_obj in memory_objs:
                address, nbytes = memory_obj.meta.address, memory_obj.meta.phy_size
                if address in self._at:
                    raise RuntimeError(f"LMCache has allocated address {address} twice")
                slab = self._slabs.take(nbytes)
                memory = self._slabs.plain(nbytes) if slab is None else slab.buffer
                if memory is None:
                    self._unfurnish(memory_objs, done)
                    return None
                self._at[address] = nbytes if slab is None else slab
                done += 1
                memory_obj.raw_data = memory[: memory_obj.raw_data.numel()]
        except BaseException:
            self._unfurnish(memory_objs, done)
            raise
        return memory_objs

    def _unfurnish(self, memory_objs: list[Any], done: int) -> None:
        """Free objects of which only the first ``done`` have memory."""
        addresses = [one.meta.address for one in memory_objs[:done]]
        with self._slab_lock:
            for memory_obj in memory_objs:
                super().free(memory_obj)  # type: ignore[misc]
            self._take_back(addresses)

    def _take_back(self, addresses: Sequence[int]) -> None:
        for address in addresses:
            memory = self._at.pop(address)
            if isinstance(memory, Slab):
                self._slabs.give(memory)
            else:
                self._slabs.give_plain(memory)


def _logger() -> Any:
    from ..logging import init_logger

    return init_logger(__name__)
