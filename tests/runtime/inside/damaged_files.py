"""Damaged files of a store, on disk and over ``fs://``: each is a miss, and moved aside where that is possible."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmcache.gaudi import promises
from stores import CHUNK, TOKENS, Store


def damaged_file(folder: Path, kind: str, damage: Callable[[Path], object]) -> None:
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


def damaged_while_it_is_read(folder: Path, kind: str, damage: Callable[[Path], object]) -> None:
    """Damage a file between the look at it and its reading: some releases read a missing one without an error."""
    backends, objects = (importlib.import_module(f"lmcache.gaudi.{name}") for name in ("backends", "objects"))
    store = Store(folder, kind)
    keys = [key for _, _, key in store.engine.token_database.process_tokens(tokens=store.prompt)]
    (place,) = (name for name, one in store.engine.storage_manager.storage_backends.items() if one is store.backend)
    whole = objects.Objects.whole

    async def prefetch(lookup_id: str, keys: list[Any]) -> Any:
        return store.backend.batched_get_blocking(keys)

    def asynchronously() -> int:
        got = asyncio.run(backends._checked(store.engine, place, prefetch)("r", keys))
        backends.release(got)
        return len(got) * CHUNK

    for look in (asynchronously, store.lookup):
        left = sorted(store.files())

        def damaging(*args: Any, left: list[Path] = left, **kwargs: Any) -> Any:
            found = whole(*args, **kwargs)
            objects.Objects.whole = whole
            damage(left[-1])
            return found

        objects.Objects.whole = damaging
        try:
            promised = look()
        finally:
            objects.Objects.whole = whole
        assert promised < TOKENS, f"{promised} tokens promised, one chunk of which was damaged"
        if look == asynchronously:
            store.load(store.lookup("next"), "next")
            assert not left[-1].exists(), f"{left[-1].name} is where lookups find it"
            store.engine.store(store.prompt, kvcaches=store.caches.given, slot_mapping=store.slots)
            _wait_for(lambda: store.engine.lookup(store.prompt) == TOKENS and len(store.files()) == len(keys))
    assert store.load(promised) == promised
    store.serves()
    store.close()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def damaged_and_not_movable(folder: Path, kind: str) -> None:
    """Damage the last file of a store whose file system has become read-only: a miss, and asynchronously as well."""
    backends, objects = (importlib.import_module(f"lmcache.gaudi.{name}") for name in ("backends", "objects"))
    store = Store(folder, kind)
    for victim in store.files():
        _cut(victim)

    class ReadOnly(type(victim)):  # type: ignore[misc]
        def replace(self, target: Any) -> Any:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    async def prefetch(lookup_id: str, keys: list[Any]) -> list[Any]:
        return []

    failed: list[str] = []
    told, objects.Path = promises.logger.exception, ReadOnly
    promises.logger.exception = lambda text, *_: failed.append(text)
    try:
        keys = [key for _, _, key in store.engine.token_database.process_tokens(tokens=store.prompt)]
        place = next(
            name for name, one in store.engine.storage_manager.storage_backends.items() if one is store.backend
        )
        assert asyncio.run(backends._checked(store.engine, place, prefetch)("r", keys)) == []
        assert store.lookup() == 0
    finally:
        promises.logger.exception, objects.Path = told, type(victim)
    assert not failed, "a damaged file that cannot be moved is an error of the lookup"
    whole, objects.Objects.whole = objects.Objects.whole, _raises
    try:
        assert asyncio.run(backends._checked(store.engine, place, prefetch)("r", keys)) == [], "it has to answer"
    finally:
        objects.Objects.whole = whole
    store.serves()
    store.close()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def _raises(*_: Any) -> Any:
    raise OSError("put in on purpose")


def cases(place: Path) -> dict[str, Callable[[], None]]:
    """Return the cases by name; ``place`` is a directory for stores."""
    damages: dict[str, Callable[[Path], object]] = {
        "was cut short": _cut,
        "is empty": lambda path: os.truncate(path, 0),
        "is gone": Path.unlink,
    }
    found: dict[str, Callable[[], None]] = {}
    for kind in ("disk", "fs"):
        for name, damage in damages.items():
            found[f"{kind}: a file {name}"] = lambda kind=kind, damage=damage: damaged_file(place, kind, damage)
            found[f"{kind}: a file {name} as it is read"] = lambda kind=kind, damage=damage: damaged_while_it_is_read(
                place, kind, damage
            )
        found[f"{kind}: a damaged file cannot be moved"] = lambda kind=kind: damaged_and_not_movable(place, kind)
    found["fs: a header is no header"] = lambda: damaged_file(place, "fs", lambda path: path.write_bytes(b"\xff" * 900))
    return found
