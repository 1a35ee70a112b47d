"""What LMCache's disk store leaves behind: ``disk_leftovers.py DIRECTORY`` starts two engines over it in turn.

A script, since LMCache leaves threads behind. It leaves the files, for the caller to remove as a recipe does.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from lmcache.v1.cache_engine import LMCacheEngineBuilder
from stores import TOKENS, Store


def _damage(store: Store, victim: Path) -> None:
    """Cut a file of the store's own engine short: the next lookup sets it aside, where no engine counts it."""
    os.truncate(victim, victim.stat().st_size // 2)
    assert store.lookup() < TOKENS, "promised what is damaged"
    assert victim.with_name(f"{victim.name}.damaged").is_file(), "the damaged file was not set aside"


def main(place: Path) -> int:
    """Check that the second engine neither finds nor counts what the first one has left."""
    try:
        first = Store(place, "disk", place=place)
        left = {path: path.stat().st_size for path in first.files()}
        LMCacheEngineBuilder.destroy(first.name)
        assert {path: path.stat().st_size for path in first.files()} == left, "the engine has removed its files"
        second = Store(place, "disk", place=place)
        assert second.engine.lookup(first.prompt) == 0, "the second engine finds what the first one has stored"
        assert second.engine.lookup(second.prompt) == TOKENS
        own = [path for path in second.files() if path not in left]
        assert second.backend.current_cache_size == sum(path.stat().st_size for path in own), "it counts others' files"
        _damage(second, own[0])
        LMCacheEngineBuilder.destroy(second.name)
        files = sum(path.is_file() for path in place.rglob("*"))
        assert files == 2 * len(left), f"{files} files, {len(left)} of each engine were to stay, one of them set aside"
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{files} files are left", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1])))
