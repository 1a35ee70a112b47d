"""Failures in asynchronous loading: of the question whether chunks are there, and of their prefetch."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmcache.v1.config import LMCacheEngineConfig
from stores import HANGS, PATIENCE, Store

QUESTIONS = ("returns None", "raises", "hangs")
PREFETCHES = ("returns None", "returns False", "returns Nones", "is short", "ends early", "raises", "hangs")


def prefetch_that_fails(folder: Path, name: str) -> None:
    """Check that asynchronous loading promises nothing that the prefetch fails on, omits or delivers too late."""
    backends = importlib.import_module("lmcache.gaudi.backends")
    store = Store(folder, "memory", lookup_timeout_ms=600)
    objects = store.engine.storage_manager.batched_get(list(store.backend.hot_cache)[:4], location="LocalCPUBackend")
    answer, due = {
        "returns None": (None, 0),
        "returns False": (False, 0),
        "returns Nones": ([None, None, None], 0),
        "is short": ([objects[0], None, objects[1]], 1),
        "ends early": (objects[:2], 2),
        "raises": (OSError("put in on purpose"), 0),
        "hangs": (None, 0),
    }[name]

    async def prefetch(lookup_id: str, keys: list[Any]) -> Any:
        if name == "hangs":
            await asyncio.sleep(HANGS)
        if isinstance(answer, OSError):
            raise answer
        return answer

    keys = list(store.backend.hot_cache)[:3]
    began = time.monotonic()
    got = asyncio.run(backends._checked(store.engine, "LocalCPUBackend", prefetch)("r", keys))
    assert got == objects[:due]
    assert time.monotonic() - began < PATIENCE
    store.close()


def question_that_fails(name: str) -> None:
    """Check that asynchronous loading counts as a miss what a store does not say in time, and gives back its pins."""
    _ask("answers")
    _ask(name)


def _ask(name: str) -> None:
    backends = importlib.import_module("lmcache.gaudi.backends")
    engine: Any = SimpleNamespace(config=SimpleNamespace(lookup_timeout_ms=600))
    unpinned: list[str] = []
    goes_on = asyncio.Event()

    async def asks(lookup_id: str, keys: list[str], pin: bool = False) -> Any:
        if name == "raises":
            raise OSError("put in on purpose")
        if name == "hangs":
            await goes_on.wait()
        return {"hangs": 2, "returns None": None}.get(name, 3)

    backend: Any = SimpleNamespace(
        batched_async_contains=asks, unpin=unpinned.append, batched_submit_put_task=lambda *_: None
    )
    backends.end_waits(engine, {"LocalDiskBackend": backend})

    async def ask() -> Any:
        found = await asyncio.wait_for(backend.batched_async_contains("r", ["a", "b", "c"], True), PATIENCE)
        assert unpinned == []
        goes_on.set()
        await asyncio.sleep(0.1)
        return found

    assert asyncio.run(ask()) == (3 if name == "answers" else 0)
    assert unpinned == (["a", "b"] if name == "hangs" else [])


def backend_of_disaggregated_serving() -> None:
    """Check that LMCache's PD backend is not asked asynchronously: it cannot answer, and keeps its references."""
    backends = importlib.import_module("lmcache.gaudi.backends")
    guards = importlib.import_module("lmcache.gaudi.guards")
    kind = importlib.import_module("lmcache.v1.storage_backend.pd_backend").PDBackend
    made: Any = object.__new__(kind)
    references: dict[str, int] = {}
    made.data, made.data_lock = {"a": SimpleNamespace(ref_count_down=lambda: references.clear())}, threading.RLock()
    references["a"] = 1
    engine: Any = SimpleNamespace(config=SimpleNamespace(lookup_timeout_ms=600), storage_manager=None, metadata=None)
    engine.config.chunk_size = 64
    engine.storage_manager = SimpleNamespace(storage_backends={"PDBackend": made})
    backends.end_waits(engine, {"PDBackend": made})
    assert asyncio.run(made.batched_async_contains("r", ["a"], True)) == 0
    assert asyncio.run(made.batched_get_non_blocking("r", ["a"])) == []
    assert references == {"a": 1}, "a reference that the backend has not given was released"
    config = LMCacheEngineConfig.from_defaults(enable_async_loading=True)
    guards.refuse_config(config, "VLLM")
    config.enable_pd, config.pd_buffer_device = True, "cpu"
    refused = ""
    try:
        guards.refuse_config(config, "VLLM")
    except guards.GaudiError as error:
        refused = str(error)
    assert "enable_async_loading with enable_pd" in refused, "every lookup of a decoder would be a miss"


def cases(place: Path) -> dict[str, Callable[[], None]]:
    """Return the cases by name; ``place`` is a directory for stores."""
    found: dict[str, Callable[[], None]] = {}
    for name in QUESTIONS:
        found[f"asynchronous loading: the question whether a chunk is there {name}"] = lambda name=name: (
            question_that_fails(name)
        )
    found["asynchronous loading: disaggregated serving"] = backend_of_disaggregated_serving
    for name in PREFETCHES:
        found[f"asynchronous loading: the prefetch {name}"] = lambda name=name: prefetch_that_fails(place, name)
    return found
