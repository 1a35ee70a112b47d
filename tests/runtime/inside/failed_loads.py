"""Failed loads on the emulated HPU, with LMCache's own classes; a script, run in a patched environment.

Arguments: a directory, then texts that select the cases whose names contain one of them. Engine, backends and stores
are LMCache's (stores.py); for multiprocess mode see multiprocess_loads.py, for
asynchronous loading asynchronous_loads.py, for files damaged_files.py.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

import asynchronous_loads
import damaged_files
import multiprocess_loads
from about import metadata
from lmcache.gaudi import adapter, compat, promises
from lmcache.v1.config import LMCacheEngineConfig
from stores import HANGS, PATIENCE, TOKENS, Store
from support import make_caches


def backend_fault(folder: Path, kind: str, name: str) -> None:
    """Make the backend's ``batched_get_blocking`` fail in one of the ways of ``FAULTS`` between lookup and load."""
    store = Store(folder, kind)
    sound = store.backend.batched_get_blocking
    store.backend.batched_get_blocking = lambda keys: FAULTS[name](sound, keys)
    began = time.monotonic()
    promised = store.lookup()
    assert time.monotonic() - began < PATIENCE
    assert promised < TOKENS, f"{promised} tokens promised of a backend that {name}"
    if promised:
        assert store.load(promised) == promised
    store.backend.batched_get_blocking = sound
    assert store.lookup("later") == TOKENS
    assert store.load(TOKENS, "later") == TOKENS
    store.close()


def backend_hangs(folder: Path, kind: str) -> None:
    """Make the backend's ``batched_get_blocking`` hang: no lookup may block, and nothing is lost once it returns."""
    store = Store(folder, kind, lookup_timeout_ms=600)
    goes_on = threading.Event()
    sound = store.backend.batched_get_blocking
    store.backend.batched_get_blocking = lambda keys: goes_on.wait(HANGS) and sound(keys)
    _answers_nothing_in_time(store)
    store.backend.batched_get_blocking = sound
    goes_on.set()
    _comes_back(store)
    assert not store.engine.gaudi_promises.holds("r"), "what came too late is held for nobody"
    store.close()


def asked_fault(folder: Path, kind: str, name: str) -> None:
    """Make ``contains`` of the backend, which every lookup calls, fail in one of the ways of ``ASKED``."""
    store = Store(folder, kind, lookup_timeout_ms=600)
    goes_on = threading.Event()
    fault = lambda *_, **__: ASKED[name](goes_on)  # noqa: E731
    asks = [call for call in ("contains", "batched_contains") if hasattr(store.backend, call)]
    for call in asks:
        setattr(store.backend, call, fault)
    began = time.monotonic()
    assert store.lookup() == 0
    assert store.lookup("next") == 0
    assert time.monotonic() - began < PATIENCE
    for call in asks:
        delattr(store.backend, call)
    goes_on.set()
    _comes_back(store)
    store.close()


ASKED: dict[str, Callable[[threading.Event], Any]] = {
    "returns None": lambda goes_on: None,
    "raises": lambda goes_on: _raises(None, None),
    "hangs": lambda goes_on: goes_on.wait(HANGS) and None,
}


def put_raises(folder: Path, kind: str) -> None:
    """Check that an error of the backend on a put, such as a full store, affects only the storing of those chunks."""
    store = Store(folder, kind)
    first, store.prompt = store.prompt, [random.randrange(50000) for _ in range(TOKENS)]
    store.backend.submit_put_task = lambda *_, **__: _raises(None, None)
    store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
    assert store.lookup() == 0
    store.prompt = first
    _comes_back(store)
    store.close()


def put_hangs(folder: Path, kind: str) -> None:
    """Make every write hang: stores go on, until host memory is full of what waits, and requests are computed."""
    room = 3 * TOKENS * 2 * 3 * 16 * 2 / (1 << 30)  # for three prompts
    store = Store(folder, kind, own_server=True, lookup_timeout_ms=600, max_local_cpu_size=room)
    goes_on = threading.Event()
    first, full = store.prompt, _full(store)
    if kind == "lm":
        assert store.server is not None
        store.server.send_signal(signal.SIGSTOP)
    elif kind == "fs":
        put = store.backend.connection.put

        async def hangs(*args: Any, **kwargs: Any) -> Any:
            while not goes_on.is_set():
                await asyncio.sleep(0.05)
            return await put(*args, **kwargs)

        store.backend.connection.put = hangs
    else:
        write = store.backend.write_file
        store.backend.write_file = lambda *args, **kwargs: goes_on.wait(HANGS) and write(*args, **kwargs)
    for _ in range(8):
        began = time.monotonic()
        store.prompt = [random.randrange(50000) for _ in range(TOKENS)]
        store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
        promised = store.lookup()
        assert store.load(promised) == promised
        store.engine.lookup_unpin(_one_or_list(store.engine, "r"))
        assert time.monotonic() - began < PATIENCE, "the engine waits for a write"
    assert full, "host memory was never full of what waits"
    goes_on.set()
    if store.server is not None:
        store.server.send_signal(signal.SIGCONT)
    if kind == "lm":
        store.prompt = first
    else:
        store.prompt = [random.randrange(50000) for _ in range(TOKENS)]
        _stores_again(store)
    _comes_back(store)
    store.close()


def _full(store: Store) -> list[str]:
    """Return a list that gets an entry for each allocation that found no host memory."""
    host, full = store.engine.storage_manager.storage_backends["LocalCPUBackend"], []

    def watched(name: str) -> Callable[..., Any]:
        allocate = getattr(host, name)

        def watch(*args: Any, **kwargs: Any) -> Any:
            memory_obj = allocate(*args, **kwargs)
            if memory_obj is None:
                full.append(name)
            return memory_obj

        return watch

    for name in ("allocate", "batched_allocate"):
        setattr(host, name, watched(name))
    return full


def _stores_again(store: Store) -> None:
    """Store a prompt, once what waits has made room for it."""
    deadline = time.monotonic() + PATIENCE
    while store.lookup("stored") != TOKENS and time.monotonic() < deadline:
        store.engine.lookup_unpin(_one_or_list(store.engine, "stored"))
        store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
        time.sleep(0.2)
    store.engine.lookup_unpin(_one_or_list(store.engine, "stored"))


def server_hangs(folder: Path) -> None:
    """Suspend the server of ``lm://`` before the lookup, and resume it later."""
    store = Store(folder, "lm", own_server=True, lookup_timeout_ms=600)
    assert store.server is not None
    store.server.send_signal(signal.SIGSTOP)
    _answers_nothing_in_time(store)
    store.server.send_signal(signal.SIGCONT)
    _comes_back(store)
    store.close()


def _answers_nothing_in_time(store: Store) -> None:
    began = time.monotonic()
    assert store.lookup() == 0, "promised what has not come"
    assert store.lookup("next") == 0
    assert store.load(TOKENS, "nothing was promised") == 0
    assert time.monotonic() - began < PATIENCE, "the engine waits for a store that does not answer"


def _comes_back(store: Store) -> None:
    deadline = time.monotonic() + PATIENCE
    while store.lookup("later") != TOKENS and time.monotonic() < deadline:
        time.sleep(0.1)
    assert store.load(TOKENS, "later") == TOKENS


def store_dies(folder: Path, kind: str) -> None:
    """Remove the directory, or end the server, before the lookup; the next request is computed and not stored."""
    store = Store(folder, kind, own_server=True, lookup_timeout_ms=600)
    store.die()
    assert store.lookup() == 0, "promised what is gone"
    prompt, store.prompt = store.prompt, [random.randrange(50000) for _ in range(TOKENS)]
    store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
    store.serves()
    store.prompt = prompt
    assert store.lookup("again") == 0
    store.close()


def _raises(sound: Any, keys: Any) -> Any:
    raise OSError("put in on purpose")


def _first_only(sound: Any, keys: Any) -> Any:
    return [*sound(keys[:1]), *[None] * (len(keys) - 1)]


def _wrong_size(sound: Any, keys: Any) -> Any:
    for memory_obj in (found := sound(keys)):
        memory_obj.metadata.shape = torch.Size((*memory_obj.metadata.shape[:2], 1, *memory_obj.metadata.shape[3:]))
        if hasattr(memory_obj.metadata, "shapes") and memory_obj.metadata.shapes:
            memory_obj.metadata.shapes = [memory_obj.metadata.shape]
    return found


def _other_format(sound: Any, keys: Any) -> Any:
    for memory_obj in (found := sound(keys)):
        memory_obj.metadata.fmt = type(memory_obj.metadata.fmt).KV_MLA_FMT
    return found


FAULTS: dict[str, Callable[[Any, Any], Any]] = {
    "returns None": lambda sound, keys: None,
    "returns False": lambda sound, keys: False,
    "returns Nones": lambda sound, keys: [None] * len(keys),
    "is short": _first_only,
    "ends early": lambda sound, keys: sound(keys[:2]),
    "raises": _raises,
    "gives another size": _wrong_size,
    "gives another format": _other_format,
}


def lost_after_the_promise(folder: Path, kind: str) -> None:
    """Check that a promised hit is loaded from host memory, whatever happens to the store."""
    store = Store(folder, kind, own_server=True)
    promised = store.lookup()
    assert promised == TOKENS
    if kind == "lm":
        store.die()
    for path in store.files():
        path.unlink()
    store.backend.batched_get_blocking = lambda keys: _raises(None, keys)
    if hasattr(store.engine, "set_health_monitor"):
        store.engine.set_health_monitor(SimpleNamespace(is_healthy=lambda: False))
    assert store.load(promised) == TOKENS
    store.close()


def looked_up_under_another_name(folder: Path) -> None:
    """Check a load of what was looked up under a name of its own, as the adapter of 0.3.7 does.

    Host memory has room for one prompt, and the store is lost after the promise.
    """
    store = Store(folder, "fs", max_local_cpu_size=TOKENS * 2 * 3 * 16 * 2 / (1 << 30))
    promised = store.lookup("a name of its own")
    assert promised == TOKENS
    for path in store.files():
        path.unlink()
    assert store.load(promised) == TOKENS
    store.engine.lookup_unpin(_one_or_list(store.engine, "a name of its own"))
    assert store.lookup() == 0, "host memory is not released"
    store.close()


def forgotten_promises(folder: Path) -> None:
    """Check that aborted requests do not hold host memory forever, nor does a full pool block the lookup thread."""
    store = Store(folder, "fs", max_local_cpu_size=2 * TOKENS * 2 * 3 * 16 * 2 / (1 << 30))
    assert store.lookup("aborted") > 0
    began = time.monotonic()
    for number in range(4):
        store.lookup(f"waits {number}")
    assert time.monotonic() - began < PATIENCE
    for number in range(4):
        store.engine.lookup_unpin(_one_or_list(store.engine, f"waits {number}"))
    store.engine.lookup_unpin(_one_or_list(store.engine, "aborted"))
    assert store.lookup("after") == TOKENS
    # The engine's thread takes what it loads while the lookups' thread looks for what was forgotten.
    held = store.engine.gaudi_promises
    promises.time = SimpleNamespace(monotonic=lambda: held.drop("after") or 0.0)
    try:
        assert store.lookup("another") == TOKENS, "a promise that is taken meanwhile fails the lookup"
        # As long as LMCache's own configuration says, a request may wait for its blocks, however many others come.
        held.drop("another")
        store.engine.config.pin_timeout_sec = 1800
        store.engine.gaudi_promises = held = promises.Promises(store.engine)
        assert store.lookup("patient") == TOKENS
        for now, kept in ((1700.0, True), (1900.0, False)):
            promises.time = SimpleNamespace(monotonic=lambda now=now: now)
            store.lookup("another")
            assert held.holds("patient") is kept, f"after {now} s"
    finally:
        promises.time = time
    store.close()


def dropped_promise(folder: Path) -> None:
    """Drop a promise, as one that nobody took, before its load: loaded again, or the adapter says what is missing."""
    store = Store(folder, "fs")
    held = store.engine.gaudi_promises
    for lost in (False, True):
        promised = store.lookup()
        promises.time = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)
        try:
            store.lookup("another")
        finally:
            promises.time = time
        assert not held.holds("r")
        held.drop("another")
        if lost:
            for path in store.files()[:2]:
                path.unlink()
        mask, expected = torch.zeros(TOKENS, dtype=torch.bool), torch.ones(promised, dtype=torch.bool)
        mask[: store.load(promised)] = True
        reason = ""
        try:
            adapter.refuse_short_load("r", mask[:promised], expected)
        except adapter.GaudiError as error:
            reason = str(error)
        assert bool(reason) == lost and ("cached tokens could not be loaded" in reason or not lost), reason
    store.close()


def _one_or_list(engine: Any, request: str) -> Any:
    return [request] if compat.unpins_lists(engine) else request


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


def main(folder: str, wanted: Sequence[str] = ()) -> int:
    place = Path(folder)
    cases: dict[str, Callable[[], None]] = {}
    for kind in ("memory", "disk", "fs", "lm"):
        for name in FAULTS:
            if kind == "memory" and name.startswith("gives another"):
                continue  # an object in host memory is the stored one
            cases[f"{kind}: the backend {name}"] = lambda kind=kind, name=name: backend_fault(place, kind, name)
    for kind in ("memory", "disk", "fs", "lm"):
        for name in ASKED:
            if (kind, name) != ("memory", "hangs"):
                cases[f"{kind}: the question whether a chunk is there {name}"] = lambda kind=kind, name=name: (
                    asked_fault(place, kind, name)
                )
    for kind in ("disk", "fs", "lm"):
        cases[f"{kind}: the backend raises at a store"] = lambda kind=kind: put_raises(place, kind)
        cases[f"{kind}: the writes hang"] = lambda kind=kind: put_hangs(place, kind)
        cases[f"{kind}: the backend hangs"] = lambda kind=kind: backend_hangs(place, kind)
        cases[f"{kind}: the store dies before the lookup"] = lambda kind=kind: store_dies(place, kind)
        cases[f"{kind}: the store is lost after the promise"] = lambda kind=kind: lost_after_the_promise(place, kind)
    cases["lm: the server hangs"] = lambda: server_hangs(place)
    cases |= damaged_files.cases(place)
    cases["fs: promises that nobody takes"] = lambda: forgotten_promises(place)
    cases["fs: a lookup has another name than its request"] = lambda: looked_up_under_another_name(place)
    cases["fs: a promise is dropped before its load"] = lambda: dropped_promise(place)
    cases |= asynchronous_loads.cases(place)
    cases["start-up: the pool is smaller than one prompt"] = lambda: small_pool(place)
    cases |= multiprocess_loads.cases()
    if wanted:
        cases = {name: run for name, run in cases.items() if any(text in name for text in wanted)}
    failed = 0
    for name, run in cases.items():
        try:
            run()
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"failed  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} cases passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1], sys.argv[2:]))
