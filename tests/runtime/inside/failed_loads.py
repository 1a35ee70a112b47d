"""Failed loads on the emulated HPU, with LMCache's own classes; a script, run in a patched environment.

Arguments: a directory. Engine, backends and stores are LMCache's. Multiprocess mode's adapter is stood in for by one
with its names, since releases before 0.5.5 serve no HPU there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from lmcache.gaudi.connector import create_connector
from lmcache.gaudi.multiprocess import FailedLoads, promise_once, whole_answer, withhold_failed_loads
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


class Adapter:
    """The names of ``LMCacheMPWorkerAdapter`` that the runtime uses."""

    lmcache_tokens_per_chunk, blocks_in_chunk, _heartbeat_interval = 64, 2, 0.2

    def __init__(self) -> None:
        self.error_block_ids: set[int] = set()
        self._failed_request_ids: set[str] = set()
        self._dropped_retrieves: set[str] = set()
        self.done: dict[str, tuple[bool, list[int]]] = {}
        self.req_client: Any = SimpleNamespace(prepare_retrieve=Silent, ping=Silent, unregister_kv_cache=Silent)
        self.is_healthy = True
        self.answer: Any = True

    def submit_retrieve_request(self, request_id: str, op: Any) -> None:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.done[request_id] = (bool(self.answer), op.flat_block_ids)

    def get_finished(self, ended: set[str]) -> tuple[set[str], set[str]]:
        finished = set(self.done) | self._dropped_retrieves
        for name, (loaded, blocks) in self.done.items():
            if not loaded:
                self.error_block_ids.update(blocks)
                self._failed_request_ids.add(name)
        self.done, self._dropped_retrieves = {}, set()
        return set(ended), finished

    def get_block_ids_with_load_errors(self) -> set[int]:
        found = set(self.error_block_ids)
        self.error_block_ids.clear()
        return found


class Silent:
    """A reply that never comes."""

    def __init__(self, *arguments: Any) -> None:
        self._never = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        return self._never.wait(timeout)

    def query(self) -> bool:
        return False


def _op(*blocks: int, skip: int = 0) -> Any:
    return SimpleNamespace(flat_block_ids=list(blocks), skip_first_n_tokens=skip)


def withheld(folder: Path, answer: Any) -> None:
    """A failed load is not finished in steps in which nobody asks for its blocks."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    adapter.submit_retrieve_request("sound", _op(1, 2))
    adapter.answer = answer
    adapter.submit_retrieve_request("failed", _op(3, 4, 5, 6, skip=32))
    assert adapter.get_finished(set()) == (set(), {"sound"})
    assert adapter.get_finished(set()) == (set(), set()), "a step with a forward pass: vllm-gaudi does not ask"
    assert adapter.get_block_ids_with_load_errors() == {4, 5, 6}, "block 3 was vLLM's, and is shared"
    assert adapter.get_finished(set()) == (set(), {"failed"})
    assert adapter.get_finished(set()) == (set(), set())


def ended_while_withheld(folder: Path) -> None:
    """An aborted request is told once, and its blocks are not invalid when another one has them."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    adapter.answer = False
    adapter.submit_retrieve_request("aborted", _op(3, 4))
    assert adapter.get_finished(set()) == (set(), set())
    assert adapter.get_finished({"aborted"}) == ({"aborted"}, set())
    assert adapter.get_block_ids_with_load_errors() == set()
    assert adapter.get_finished(set()) == (set(), set())


def dead_server(folder: Path) -> None:
    """A wait ends when the heartbeat has found the server dead; unregistering waits for two heartbeats at most."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    threading.Timer(0.5, lambda: setattr(adapter, "is_healthy", False)).start()
    began = time.monotonic()
    try:
        adapter.req_client.prepare_retrieve("key", 1).result(timeout=300)
    except TimeoutError:
        assert time.monotonic() - began < 5
    else:
        raise AssertionError("a reply came from nowhere")
    adapter.is_healthy = True
    assert adapter.req_client.unregister_kv_cache().wait(300) is False
    assert time.monotonic() - began < 8
    assert isinstance(adapter.req_client.ping(), Silent), "the heartbeat waits by itself"


def promised_once(folder: Path) -> None:
    """A request whose load failed is not promised the same again."""
    asked: list[str] = []
    kind = type(
        "Scheduler",
        (),
        {
            "__init__": lambda self: setattr(self, "_finished_lookup_results", {"r": 64}),
            "maybe_submit_lookup_request": lambda self, request_id, **given: asked.append(request_id),
            "cleanup_lookup_result": lambda self, request_id: self._finished_lookup_results.pop(request_id, None),
            "end_session": lambda self, request_id: None,
        },
    )
    scheduler: Any = promise_once(kind)()
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    scheduler.cleanup_lookup_result("r")
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    assert asked == ["r"]
    scheduler.end_session("r")
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    assert asked == ["r", "r"]


def short_answer(folder: Path) -> None:
    assert whole_answer([1, 2], [[1, 2, 3, 4]], 2) == [1, 2]
    assert whole_answer([1], [[1, 2, 3, 4]], 2) is None
    assert whole_answer(None, [[1]], 2) is None


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
    for name, answer in (("returns False", False), ("returns None", None), ("raises", RuntimeError("on purpose"))):
        cases[f"multiprocess: the server {name}"] = lambda answer=answer: withheld(place, answer)
    cases["start-up: the pool is smaller than one prompt"] = lambda: small_pool(place)
    for case in (ended_while_withheld, dead_server, promised_once, short_answer):
        cases[f"multiprocess: {case.__name__}"] = lambda case=case: case(place)
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


assert FailedLoads  # what is stood in for is what the runtime has

if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
