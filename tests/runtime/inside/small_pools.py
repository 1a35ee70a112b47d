"""Cases of failed_loads.py at start-up: a pool of host memory that is smaller than one prompt."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from about import metadata
from lmcache.gaudi import compat
from lmcache.v1.config import LMCacheEngineConfig
from stores import Store
from support import make_caches


def cases(place: Path) -> dict[str, Callable[[], None]]:
    """Return the cases by name."""
    return {"start-up: the pool is smaller than one prompt": lambda: small_pool(place)}


def small_pool(folder: Path) -> None:
    """Check that registration refuses a pool smaller than the longest request and names a sufficient setting."""
    pool = importlib.import_module("lmcache.gaudi.pool")
    layout: Any = SimpleNamespace(token_bytes=131072)  # an 8B model of 32 layers, 8 heads of 128, bfloat16
    sizes = {"chunk": 256, "longest": 131072, "ranks": 2}
    try:
        pool.refuse_small_pool(SimpleNamespace(max_local_cpu_size=5.0), layout, **sizes)
    except pool.GaudiError as error:
        told = str(error)
        assert "40,960 tokens" in told and "131,072" in told, told
        assert "max_local_cpu_size to 16.0 or more (32.00 GB for 2 ranks)" in told, told
        assert "--max-model-len to 40960" in told, told
    else:
        raise AssertionError("5 GB were taken for 131,072 tokens of 128 KiB")
    pool.refuse_small_pool(SimpleNamespace(max_local_cpu_size=16.0), layout, **sizes)
    pool.refuse_small_pool(SimpleNamespace(max_local_cpu_size=5.0), layout, **(sizes | {"longest": 40960}))
    # With MLA the first rank stores for all, in a pool that may have a size of its own.
    about = lambda first, mla=True: SimpleNamespace(use_mla=mla, is_first_rank=lambda: first)  # noqa: E731
    of_first = {"first_rank_max_local_cpu_size": 16.0}
    host = importlib.import_module("lmcache.v1.storage_backend.local_cpu_backend")
    host.SystemMemoryDetector = SimpleNamespace(get_available_memory_gb=lambda: 1000.0)
    for size, extra, rank, refused in (
        (5.0, of_first, about(first=True), ""),
        (5.0, of_first, about(first=False), ""),
        (5.0, {}, about(first=False), ""),
        (5.0, {}, about(first=True), "max_local_cpu_size to 16.0 or more (16.00 GB for 1 rank)"),
        (16.0, {"first_rank_max_local_cpu_size": 5.0}, about(first=True), "first_rank_max_local_cpu_size to 16.0"),
        (5.0, of_first, about(first=True, mla=False), "max_local_cpu_size to 16.0 or more (32.00 GB for 2 ranks)"),
        (5.0, {**of_first, "save_only_first_rank": False}, about(first=True), "Set max_local_cpu_size to 16.0"),
    ):
        config = LMCacheEngineConfig.from_defaults(max_local_cpu_size=size, extra_config=extra)
        told = ""
        try:
            pool.refuse_small_pool(config, layout, **sizes, metadata=rank)
        except pool.GaudiError as error:
            told = str(error)
        assert refused in told and bool(refused) == bool(told), (size, extra, told)
    small_pool_of_the_host(pool, host, layout, sizes)
    store = Store(folder, "memory")
    assert compat.pool_bytes(store.engine) == int(0.1 * (1 << 30)), "the pool that there is, is not seen"
    store.close()


def small_pool_of_the_host(pool: Any, host: Any, layout: Any, sizes: dict[str, int]) -> None:
    """Check that registration computes with the pool that LMCache makes, and not with the one that it is asked for."""
    first = metadata(latent_caches(), use_mla=True)

    def told(there: int | None = None, **settings: Any) -> str:
        config = LMCacheEngineConfig.from_defaults(chunk_size=256, **settings)
        try:
            pool.refuse_small_pool(config, layout, **sizes, metadata=first, there=there)
        except pool.GaudiError as error:
            return str(error)
        return ""

    assert told(max_local_cpu_size=17.0, there=16 << 30) == ""
    assert "cut to 6.00 GB" in told(max_local_cpu_size=17.0, there=6 << 30), "there is a pool, of another size"
    if hasattr(host.LocalCPUBackend, "_calculate_effective_cpu_size"):
        host.SystemMemoryDetector = SimpleNamespace(get_available_memory_gb=lambda: 20.0)
        for reserve, size in ((0.0, 17.0), (4.0, 16.0), (14.0, 6.0), (30.0, 0.0)):
            settings = {"max_local_cpu_size": 17.0, "reserve_local_cpu_size": reserve}
            refused = told(**settings)
            assert bool(refused) == (size < 16), refused
            if refused:
                assert f"17.0 GB, cut to {size:.2f} GB by" in refused, refused
                assert f"reserve_local_cpu_size {reserve} GB" in refused, refused
            if size:  # otherwise LMCache's own start fails
                made = object.__new__(host.LocalCPUBackend)
                config = LMCacheEngineConfig.from_defaults(**settings)
                assert made.initialize_allocator(config, first).size == size * (1 << 30)
    if hasattr(host.LocalCPUBackend, "_resolve_local_cpu_allocator_alignment"):
        aligned = {"max_local_cpu_size": 17.0, "extra_config": {"local_cpu.pinned_align_bytes": 1 << 26}}
        assert "holds 272 chunks" in told(there=17 << 30, **aligned), "an object takes 64 MiB, not 32"


def latent_caches() -> Any:
    rng = np.random.default_rng(0)
    return make_caches("latent blocks", torch.bfloat16, blocks=4, block_size=16, rows=[(1, 16)] * 3, rng=rng)
