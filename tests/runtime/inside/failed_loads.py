"""Failed loads on the emulated HPU, with LMCache's own classes; a script, run in a patched environment.

Arguments: a directory, then texts that select the cases whose names contain one of them. Engine, backends and stores
are LMCache's (stores.py). Other modules have cases too: multiprocess_loads.py, asynchronous_loads.py, damaged_files.py,
kept_promises.py, and small_pools.py for start-up.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import asynchronous_loads
import damaged_files
import kept_promises
import multiprocess_loads
import small_pools
from stores import HANGS, PATIENCE, TOKENS, Store, one_or_list


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
        store.engine.lookup_unpin(one_or_list(store.engine, "r"))
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
        store.engine.lookup_unpin(one_or_list(store.engine, "stored"))
        store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
        time.sleep(0.2)
    store.engine.lookup_unpin(one_or_list(store.engine, "stored"))


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
    cases["lm: the server hangs"] = lambda: server_hangs(place)
    cases |= damaged_files.cases(place)
    cases |= kept_promises.cases(place)
    cases |= asynchronous_loads.cases(place)
    cases |= small_pools.cases(place)
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
