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
        LMCacheEngineBuilder.destroy(second.name)
        files = len(second.files())
        assert files == 2 * len(left), f"{files} files, {len(left)} of each engine were to stay"
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{files} files are left", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1])))
