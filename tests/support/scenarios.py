"""The situations in which a transaction is attacked, each a tiny LMCache unpacked in a directory."""

from __future__ import annotations

import py_compile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import Disk
from gaudi_patch.output.report import Result
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel
from tests.support.tiny import VERSION, Tiny

#: A package of a few files, since every combination is tested; only the mode of tool.sh changes.
FEW = {
    "lmcache/__init__.py": b"# SPDX-License-Identifier: Apache-2.0\n",
    "lmcache/engine.py": b"def device():\n    return 'cuda'\n",
    "lmcache/old.py": b"import torch.cuda\n",
    "lmcache/tool.sh": b"#!/bin/sh\n",
}
FEW_PATCHED: dict[str, bytes | None] = {
    "lmcache/engine.py": b"def device():\n    return 'hpu'\n",
    "lmcache/old.py": None,
    "lmcache/gaudi/__init__.py": b"BLOCK = 128\n",
    "lmcache/tool.sh": FEW["lmcache/tool.sh"],
}
#: A newer series: one file unchanged, one dropped, one different, one added.
NEWER: dict[str, bytes | None] = {
    "lmcache/engine.py": FEW_PATCHED["lmcache/engine.py"],
    "lmcache/old.py": b"import torch\n",
    "lmcache/hpu/__init__.py": b"BLOCK = 256\n",
}

Mode = py_compile.PycInvalidationMode


class Scenario(NamedTuple):
    """``make`` creates it in a directory; ``verb`` is then run; the patched side is its end or its start."""

    name: str
    make: Callable[[Path], Tiny]
    verb: Callable[[Tiny, Disk], Result]
    ends_patched: bool


def compile_all(site: Path, mode: Mode = Mode.UNCHECKED_HASH) -> None:
    """Create a .pyc for each module, as image builders do."""
    for file in sorted(site.rglob("*.py")):
        py_compile.compile(str(file), invalidation_mode=mode, doraise=True)


def few(folder: Path) -> Tiny:
    made = tiny.make(folder, FEW, FEW_PATCHED)
    compile_all(made.site)
    return made


def patched(folder: Path) -> Tiny:
    made = few(folder)
    made.apply()
    return made


def linked(folder: Path) -> Tiny:
    """Install as ``uv --link-mode=symlink`` does: each file is a link into a cache."""
    made = tiny.make(folder, FEW, FEW_PATCHED, installer="uv")
    cache = folder / "cache"
    for file in [path for path in (made.site / "lmcache").rglob("*") if path.is_file()]:
        target = cache / file.relative_to(made.site)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
        file.symlink_to(target)
    return made


def outdated(folder: Path) -> Tiny:
    """Apply an older series; the manifest has a newer one."""
    older = patched(folder)
    patches = {VERSION: {"newer.patch": tiny.patch(FEW, NEWER)}}
    newer = tiny.write_manifest(folder / "newer", patches, {VERSION: fake_wheel(folder / "wheels", VERSION, dict(FEW))})
    return replace(older, manifest=newer, patched=NEWER)


def partial(folder: Path) -> Tiny:
    """Patch some files with another tool, which leaves no state."""
    made = tiny.make(folder, FEW, FEW_PATCHED)
    (made.site / "lmcache/engine.py").write_bytes(FEW_PATCHED["lmcache/engine.py"] or b"")
    return made


def _apply(target: Tiny, disk: Disk) -> Result:
    return target.apply(disk)


def _rollback(target: Tiny, disk: Disk) -> Result:
    return target.rollback(disk)


ALL = [
    Scenario("apply", few, _apply, True),
    Scenario("apply-over-links", linked, _apply, True),
    Scenario("complete-a-partial", partial, _apply, True),
    Scenario("update", outdated, _apply, True),
    Scenario("rollback", patched, _rollback, False),
]
