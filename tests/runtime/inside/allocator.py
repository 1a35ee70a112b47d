"""Compare the patched allocator of a release with its own: the same calls must give the same answers. A script.

The reference is LMCache's own MixedMemoryAllocator over one buffer. Addresses, sizes, refusals, statistics and validity
must be equal after every call, whatever is pinned. Each object must keep its bytes while it is alive.
"""

from __future__ import annotations

import importlib
import os
import random
import threading
import types
from typing import Any
from unittest import mock

import torch
from lmcache.gaudi import allocator as gaudi
from lmcache.gaudi.device import HpuBackend
from lmcache.gaudi.slabs import hold, release

try:
    MIXED = importlib.import_module("lmcache.v1.memory_allocators.mixed_memory_allocator").MixedMemoryAllocator
except ModuleNotFoundError:
    MIXED = importlib.import_module("lmcache.v1.memory_management").MixedMemoryAllocator
FORMATS = importlib.import_module("lmcache.v1.memory_management").MemoryFormat
CONFIG = types.SimpleNamespace(extra_config=None, remote_url=None, get_extra_config_value=lambda name, default: default)
CHUNK = (2, 3, 64, 40)  # 30,720 bytes, 32,768 with LMCache's alignment
NBYTES = 2 * 3 * 64 * 40 * 2
POOL = 12 * 32768


def pools() -> tuple[Any, Any]:
    chosen = gaudi.memory_pool(CONFIG, MIXED)
    assert chosen is not MIXED and issubclass(chosen, MIXED)
    return MIXED(POOL), chosen(POOL, numa_mapping=None, config=CONFIG)


def state(pool: Any) -> tuple[Any, ...]:
    objects = pool.pin_allocator
    return objects.num_active_allocations, objects.total_allocated_size, pool.memcheck()


def fields(memory_obj: Any) -> tuple[Any, ...]:
    meta = memory_obj.meta
    return (
        meta.address,
        meta.phy_size,
        tuple(meta.shape),
        meta.dtype,
        meta.fmt,
        meta.ref_count,
        memory_obj.raw_data.numel(),
    )


def random_calls(calls: int) -> None:
    """Allocate and free, singly and in batches, whole chunks and tails."""
    rng = random.Random(11)
    stock, mine = pools()
    live: list[tuple[Any, Any, int]] = []
    refused = pinned = 0
    for number in range(calls):
        tokens = 64 if rng.random() < 0.7 else rng.randrange(1, 64)
        shape = torch.Size((*CHUNK[:2], tokens, CHUNK[3]))
        what = rng.random()
        if what < 0.45:
            pair = stock.allocate(shape, torch.bfloat16), mine.allocate(shape, torch.bfloat16)
            pairs = None if pair[0] is None else [pair]
        elif what < 0.6:
            count = rng.randrange(1, 4)
            batches = [pool.batched_allocate(shape, torch.bfloat16, count) for pool in (stock, mine)]
            assert (batches[0] is None) == (batches[1] is None)
            pairs = None if batches[0] is None else list(zip(*batches, strict=True))
            pair = (batches[0], batches[1])
        else:
            several = rng.sample(range(len(live)), min(len(live), rng.randrange(1, 4)))
            gone = [live[place] for place in several]
            live = [one for place, one in enumerate(live) if place not in several]
            if rng.random() < 0.5 and gone:
                stock.batched_free([one[0] for one in gone])
                mine.batched_free([one[1] for one in gone])
            else:
                for one in gone:
                    one[0].ref_count_down()
                    one[1].ref_count_down()
            assert all(not one[1].is_valid() and not one[0].is_valid() for one in gone)
            if gone and rng.random() < 0.3:  # a double free changes nothing
                stock.free(gone[0][0])
                mine.free(gone[0][1])
            pairs, pair = [], (0, 0)
        if pairs is None:
            refused += 1
            assert pair[1] is None, "mine has room where LMCache's own has none"
            continue
        for own, other in pairs:
            assert fields(own) == fields(other), (fields(own), fields(other))
            mark = number % 251
            other.raw_data.fill_(mark)
            live.append((own, other, mark))
            slab = hold(other.tensor)
            whole = other.meta.phy_size == 32768  # an equally large tail counts as a whole chunk
            assert (slab is not None) == whole, "whole chunks are pinned, and nothing else"
            if slab is not None:
                pinned += 1
                assert other.raw_data.data_ptr() == slab.address
                release(slab)
        assert state(stock) == state(mine), (state(stock), state(mine))
        for _, other, mark in live:
            assert bool((other.raw_data == mark).all()), "an object lost its bytes to another"
        assert mine.slabs.pinned_bytes + mine.slabs.plain_bytes <= POOL
    assert refused > calls // 50 and pinned > calls // 5, (refused, pinned)
    for own, other, _ in live:
        own.ref_count_down()
        other.ref_count_down()
    assert state(mine)[0] == 0 and mine.slabs.plain_bytes == 0
    stock.close()
    mine.close()


def six_threads() -> None:
    """Check that each thread's objects keep their bytes and that nothing is left allocated at the end."""
    _, mine = pools()
    wrong: list[str] = []

    def work(mark: int) -> None:
        rng = random.Random(mark)
        for _ in range(150):
            tokens = 64 if rng.random() < 0.7 else rng.randrange(1, 64)
            memory_obj = mine.allocate(torch.Size((*CHUNK[:2], tokens, CHUNK[3])), torch.bfloat16)
            if memory_obj is None:
                continue
            memory_obj.raw_data.fill_(mark)
            if not bool((memory_obj.raw_data == mark).all()):
                wrong.append(f"thread {mark}")
            memory_obj.ref_count_down()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert state(mine)[:2] == (0, 0) and state(mine)[2]


def slow_pinning() -> None:
    """Allocate and free other objects while memory is pinned for one object."""
    pinning, go = threading.Event(), threading.Event()

    class Slow(HpuBackend):
        def pinned(self, nbytes: int) -> torch.Tensor:
            pinning.set()
            assert go.wait(60)
            return super().pinned(nbytes)

    with mock.patch.dict(os.environ, LMCACHE_GAUDI_PIN_AHEAD_MIB="0"):  # pin everything on demand
        _, mine = pools()
    mine.slabs.serve(32768, Slow())
    allocated: list[Any] = []
    whole = torch.Size(CHUNK)
    first = threading.Thread(target=lambda: allocated.append(mine.allocate(whole, torch.bfloat16)), daemon=True)
    first.start()
    assert pinning.wait(60)
    done = threading.Event()

    def others() -> None:
        tail = mine.allocate(torch.Size((*CHUNK[:2], 8, CHUNK[3])), torch.bfloat16)
        assert mine.memcheck()
        tail.ref_count_down()
        done.set()

    second = threading.Thread(target=others, daemon=True)
    second.start()
    passed = done.wait(10)  # times out only on failure
    go.set()
    # Both threads must end before the process does: a thread that frees a tensor later ends it with SIGABRT.
    first.join(60)
    second.join(60)
    assert passed, "allocations wait for memory that is pinned for another object"
    slab = hold(allocated[0].raw_data)
    assert slab is not None
    release(slab)
    allocated[0].ref_count_down()
    assert state(mine)[:2] == (0, 0)
    mine.close()


def memory_runs_out() -> None:
    """Check that pinning that fails at the fourth object leaves three pinned, and that no memory at all loses none."""

    class Refusing(HpuBackend):
        def __init__(self) -> None:
            super().__init__()
            self.left = 3

        def pinned(self, nbytes: int) -> torch.Tensor:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("synHostMalloc: no memory")
            return super().pinned(nbytes)

    with mock.patch.dict(os.environ, LMCACHE_GAUDI_PIN_AHEAD_MIB="0"):
        _, mine = pools()
    mine.slabs.serve(32768, Refusing())
    batch = mine.batched_allocate(torch.Size(CHUNK), torch.bfloat16, 6)
    for number, memory_obj in enumerate(batch):
        memory_obj.raw_data.fill_(number)
    held = [hold(memory_obj.raw_data) for memory_obj in batch]
    assert [slab is not None for slab in held] == [True] * 3 + [False] * 3, held
    assert all(bool((memory_obj.raw_data == number).all()) for number, memory_obj in enumerate(batch))
    for slab in held[:3]:
        release(slab)
    mine.batched_free(batch)
    assert state(mine) == (0, 0, True) and mine.slabs.plain_bytes == 0

    # The host refuses memory, as without overcommit: to LMCache the pool is full.
    empty = torch.empty
    tail = torch.Size((*CHUNK[:2], 8, CHUNK[3]))
    for refusal in (MemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        left = iter([True, True])

        def some(*size: Any, refusal: Exception = refusal, left: Any = left, **others: Any) -> torch.Tensor:
            if next(left, None) is None:
                raise refusal
            return empty(*size, **others)

        with mock.patch.object(torch, "empty", some):
            assert mine.batched_allocate(tail, torch.bfloat16, 3) is None, "three objects, and memory for two"
            assert mine.allocate(tail, torch.bfloat16) is None
        assert state(mine) == (0, 0, True) and mine.slabs.plain_bytes == 0
    assert mine.allocate(tail, torch.bfloat16) is not None
    mine.close()


def same_attributes() -> None:
    """Check that this allocator has every attribute of LMCache's own."""
    stock, mine = pools()
    assert set(vars(stock)) <= set(vars(mine)), set(vars(stock)) - set(vars(mine))
    assert mine.align_bytes == getattr(stock, "align_bytes", mine.align_bytes)
    binary = mine.allocate(torch.Size((100,)), torch.uint8, FORMATS.BINARY_BUFFER)
    assert binary is not None


def one_buffer() -> None:
    """Check that LMCache's own class is used if a caller needs one buffer."""
    for name, value in (("enable_p2p", True), ("storage_plugins", ["x"]), ("remote_url", "mooncakestore://h:1")):
        config = types.SimpleNamespace(**{**vars(CONFIG), name: value})
        assert gaudi.memory_pool(config, MIXED) is MIXED, name
    for name in ("shm_name", "enable_nixl_storage", "use_odirect", "rust_raw_block.device_path"):
        config = types.SimpleNamespace(**{**vars(CONFIG), "extra_config": {name: "y"}})
        assert gaudi.memory_pool(config, MIXED) is MIXED, name
    for plugins, extra in ((["mine"], {}), (["redis"], {"remote_storage_plugin.redis.module_path": "mine"})):
        config = types.SimpleNamespace(**{**vars(CONFIG), "remote_storage_plugins": plugins, "extra_config": extra})
        assert gaudi.memory_pool(config, MIXED) is MIXED, plugins
    config = types.SimpleNamespace(**{**vars(CONFIG), "remote_storage_plugins": ["redis", "fs.second"]})
    assert gaudi.memory_pool(config, MIXED) is not MIXED
    for url in ("lm://h:1", "fs://h:1/tmp", "redis://h:1"):
        config = types.SimpleNamespace(**{**vars(CONFIG), "remote_url": url})
        assert gaudi.memory_pool(config, MIXED) is not MIXED, url


def main() -> None:
    gaudi.serve(NBYTES, HpuBackend())
    one_buffer()
    same_attributes()
    random_calls(1000)
    six_threads()
    slow_pinning()
    memory_runs_out()
    print("6 cases passed")


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)
    main()
