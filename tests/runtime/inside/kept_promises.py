"""Cases of failed_loads.py between lookup and load: what was promised is lost, forgotten or dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lmcache.gaudi import adapter, promises
from stores import PATIENCE, TOKENS, Store, one_or_list


def cases(place: Path) -> dict[str, Callable[[], None]]:
    """Return the cases by name."""
    kinds = {
        f"{kind}: the store is lost after the promise": lambda kind=kind: lost_after_the_promise(place, kind)
        for kind in ("disk", "fs", "lm")
    }
    return kinds | {
        "fs: promises that nobody takes": lambda: forgotten_promises(place),
        "fs: a lookup has another name than its request": lambda: looked_up_under_another_name(place),
        "fs: a promise is dropped before its load": lambda: dropped_promise(place),
    }


def raises(*_: Any) -> Any:
    raise OSError("put in on purpose")


def lost_after_the_promise(folder: Path, kind: str) -> None:
    """Check that a promised hit is loaded from host memory, whatever happens to the store."""
    store = Store(folder, kind, own_server=True)
    promised = store.lookup()
    assert promised == TOKENS
    if kind == "lm":
        store.die()
    for path in store.files():
        path.unlink()
    store.backend.batched_get_blocking = raises
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
    store.engine.lookup_unpin(one_or_list(store.engine, "a name of its own"))
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
        store.engine.lookup_unpin(one_or_list(store.engine, f"waits {number}"))
    store.engine.lookup_unpin(one_or_list(store.engine, "aborted"))
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
