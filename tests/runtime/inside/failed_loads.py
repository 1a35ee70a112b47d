"""Failed loads on the emulated HPU, with LMCache's own classes; a script, run in a patched environment.

Arguments: a directory. Engine, backends and stores are LMCache's; for multiprocess mode see multiprocess_loads.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

import multiprocess_loads
from lmcache.gaudi.connector import create_connector
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from support import Caches, make_caches

try:
    from lmcache.v1.metadata import LMCacheMetadata
except ImportError:  # up to 0.3.13
    from lmcache.config import LMCacheEngineMetadata as LMCacheMetadata

BLOCKS, BLOCK, CHUNK = 40, 16, 64
TOKENS = 4 * CHUNK


def metadata(caches: Caches) -> Any:
    """What LMCache knows of the model, with the fields that this release has."""
    values = {
        "model_name": "m",
        "world_size": 1,
        "local_world_size": 1,
        "worker_id": 0,
        "local_worker_id": 0,
        "fmt": "vllm",
        "kv_dtype": caches.dtype,
        "kv_shape": (len(caches.rows), caches.kv, CHUNK, *caches.rows[0]),
        "use_mla": False,
        "role": "worker",
        "chunk_size": CHUNK,
    }
    known = {field.name for field in dataclasses.fields(LMCacheMetadata)}
    return LMCacheMetadata(**{name: value for name, value in values.items() if name in known})


class Store:
    """An engine with something stored, and what a test does to it."""

    def __init__(self, folder: Path, kind: str, **options: Any) -> None:
        self.folder = folder / f"{kind}-{random.random()}"
        self.folder.mkdir(parents=True)
        settings: dict[str, Any] = {"chunk_size": CHUNK, "max_local_cpu_size": 0.1, "save_unfull_chunk": False}
        if kind == "disk":
            settings |= {"local_cpu": False, "local_disk": f"{self.folder}/", "max_local_disk_size": 0.1}
        elif kind == "fs":
            settings |= {"local_cpu": False, "remote_url": f"fs://localhost:0{self.folder}/", "remote_serde": "naive"}
        config = LMCacheEngineConfig.from_defaults(**(settings | options))
        self.caches = make_caches(
            "blocks", torch.bfloat16, blocks=BLOCKS, block_size=BLOCK, rows=[(2, 8)] * 3, rng=np.random.default_rng(0)
        )
        about = metadata(self.caches)
        connector = create_connector(config, about, "VLLM")
        self.name = f"engine-{random.random()}"
        self.engine = LMCacheEngineBuilder.get_or_create(
            self.name, config, about, connector, lambda t, _: t, lambda o, _: o
        )
        connector.initialize_kvcaches_ptr(kvcaches=self.caches.given)
        self.engine.post_init(kvcaches=self.caches.given)
        self.prompt = [random.randrange(50000) for _ in range(TOKENS)]
        self.slots = torch.arange(TOKENS)
        self.engine.store(self.prompt, kvcaches=self.caches.given, slot_mapping=self.slots)
        deadline = time.monotonic() + 30
        while self.engine.lookup(self.prompt) != TOKENS and time.monotonic() < deadline:
            time.sleep(0.05)
        while kind != "memory" and len(self.files()) < TOKENS // CHUNK and time.monotonic() < deadline:
            time.sleep(0.05)  # found as soon as it is to be written
        place = {"disk": "LocalDiskBackend", "fs": "RemoteBackend", "memory": "LocalCPUBackend"}[kind]
        self.backend = self.engine.storage_manager.storage_backends[place]

    def files(self) -> list[Path]:
        """The chunks' files, in no order."""
        return [path for path in self.folder.rglob("*") if path.suffix not in (".damaged", ".tmp") and path.is_file()]

    def lookup(self, request: str = "r") -> int:
        """What the scheduler is promised."""
        return int(self.engine.lookup(self.prompt, lookup_id=request, pin=True))

    def load(self, promised: int, request: str = "r") -> int:
        """Load what was promised, and return how many tokens came."""
        mask = torch.ones(promised, dtype=torch.bool)
        found = self.engine.retrieve(
            self.prompt[:promised], mask, kvcaches=self.caches.given, slot_mapping=self.slots[:promised], req_id=request
        )
        return int(found.sum())

    def serves(self) -> None:
        """Whatever was done, a promise is kept."""
        promised = self.lookup("again")
        assert self.load(promised, "again") == promised

    def close(self) -> None:
        LMCacheEngineBuilder.destroy(self.name)


def damaged_file(folder: Path, kind: str, damage: Callable[[Path], None]) -> None:
    store = Store(folder, kind)
    victim = store.files()[0]
    damage(victim)
    promised = store.lookup()
    assert promised < TOKENS, f"{promised} tokens promised, one chunk of which is damaged"
    assert store.load(promised) == promised
    if victim.exists():
        raise AssertionError(f"{victim.name} is where lookups find it")
    assert store.lookup("next") <= promised
    store.serves()
    store.close()


def backend_fault(folder: Path, kind: str, name: str) -> None:
    """``batched_get_blocking`` of the backend fails in one of the ways of ``FAULTS`` between lookup and load."""
    store = Store(folder, kind)
    sound = store.backend.batched_get_blocking
    store.backend.batched_get_blocking = lambda keys: FAULTS[name](sound, keys)
    began = time.monotonic()
    promised = store.lookup()
    assert time.monotonic() - began < 20
    assert promised < TOKENS, f"{promised} tokens promised of a backend that {name}"
    if promised:
        assert store.load(promised) == promised
    store.backend.batched_get_blocking = sound
    assert store.lookup("later") == TOKENS
    assert store.load(TOKENS, "later") == TOKENS
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


FAULTS: dict[str, Callable[[Any, Any], Any]] = {
    "returns None": lambda sound, keys: None,
    "returns False": lambda sound, keys: False,
    "returns Nones": lambda sound, keys: [None] * len(keys),
    "is short": _first_only,
    "ends early": lambda sound, keys: sound(keys[:2]),
    "raises": _raises,
    "gives another size": _wrong_size,
}


def lost_after_the_promise(folder: Path, kind: str) -> None:
    """What was promised is loaded from host memory, whatever becomes of the store."""
    store = Store(folder, kind)
    promised = store.lookup()
    assert promised == TOKENS
    for path in store.files():
        path.unlink()
    store.backend.batched_get_blocking = lambda keys: _raises(None, keys)
    if hasattr(store.engine, "set_health_monitor"):
        store.engine.set_health_monitor(SimpleNamespace(is_healthy=lambda: False))
    assert store.load(promised) == TOKENS
    store.close()


def forgotten_promises(folder: Path) -> None:
    """Aborted requests do not hold host memory for ever, nor does a full pool hold the thread that looks up."""
    store = Store(folder, "fs", max_local_cpu_size=2 * TOKENS * 2 * 3 * 16 * 2 / (1 << 30))
    assert store.lookup("aborted") > 0
    began = time.monotonic()
    for number in range(4):
        store.lookup(f"waits {number}")
    assert time.monotonic() - began < 15
    for number in range(4):
        store.engine.lookup_unpin(_one_or_list(store.engine, f"waits {number}"))
    store.engine.lookup_unpin(_one_or_list(store.engine, "aborted"))
    assert store.lookup("after") == TOKENS
    store.close()


def _one_or_list(engine: Any, request: str) -> Any:
    from lmcache.gaudi import compat

    return [request] if compat.unpins_lists(engine) else request


def small_pool(folder: Path) -> None:
    """A pool smaller than the longest request is refused at registration, with the setting that is enough."""
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


def prefetch_that_fails(folder: Path) -> None:
    """Asynchronous loading: what the prefetch raises, or leaves out, is not promised."""
    promises = importlib.import_module("lmcache.gaudi.promises")
    store = Store(folder, "memory")
    objects = store.engine.storage_manager.batched_get(list(store.backend.hot_cache)[:4], location="LocalCPUBackend")

    async def answer(lookup_id: str, keys: list[Any]) -> Any:
        return [objects[0], None, objects[1]]

    async def fail(lookup_id: str, keys: list[Any]) -> Any:
        raise OSError("put in on purpose")

    keys = list(store.backend.hot_cache)[:3]
    assert asyncio.run(promises._checked(store.engine, "LocalCPUBackend", answer)("r", keys)) == objects[:1]
    assert asyncio.run(promises._checked(store.engine, "LocalCPUBackend", fail)("r", keys)) == []
    store.close()


def main(folder: str) -> int:
    place = Path(folder)
    cut = lambda path: os.truncate(path, path.stat().st_size // 3)  # noqa: E731
    cases: dict[str, Callable[[], None]] = {}
    for kind in ("disk", "fs"):
        cases[f"{kind}: a file was cut short"] = lambda kind=kind: damaged_file(place, kind, cut)
        cases[f"{kind}: a file is empty"] = lambda kind=kind: damaged_file(
            place, kind, lambda path: os.truncate(path, 0)
        )
        cases[f"{kind}: a file is gone"] = lambda kind=kind: damaged_file(place, kind, Path.unlink)
        cases[f"{kind}: the store is lost after the promise"] = lambda kind=kind: lost_after_the_promise(place, kind)
        for name in FAULTS:
            cases[f"{kind}: the backend {name}"] = lambda kind=kind, name=name: backend_fault(place, kind, name)
    cases["fs: a header is no header"] = lambda: damaged_file(place, "fs", lambda path: path.write_bytes(b"\xff" * 900))
    cases["fs: promises that nobody takes"] = lambda: forgotten_promises(place)
    cases["prefetch"] = lambda: prefetch_that_fails(place)
    cases["start-up: the pool is smaller than one prompt"] = lambda: small_pool(place)
    cases |= multiprocess_loads.cases()
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
    os._exit(main(sys.argv[1]))
