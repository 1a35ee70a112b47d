"""The real LMCache, compiled as image builders compile it, updated from an older series of its release to this one."""

from __future__ import annotations

import importlib.util
import marshal
import py_compile
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.series import manifest as manifests
from tests.support import tiny
from tests.support.fake_wheel import unpack
from tests.support.tiny import Tiny

RELEASE = "0.5.6"
Mode = py_compile.PycInvalidationMode


@pytest.mark.parametrize("mode", [Mode.UNCHECKED_HASH, Mode.TIMESTAMP])
def test_after_an_update_every_module_runs_its_own_code(
    mode: Mode, lmcache_wheel: Callable[..., Path], tmp_path: Path
) -> None:
    """Three packages once ran the code of v1/platform/devices/hpu/__init__.py, and check exited 0."""
    wheel = lmcache_wheel(RELEASE, f"3.{sys.version_info[1]}")
    site = (tmp_path / "site").resolve()
    unpack(wheel, site)
    current = manifests.load()
    series = current.verdict(RELEASE).series
    assert series is not None
    names = [name for name in series.patches if not name.startswith(("multiprocess", "manager"))]
    patches = {f"{place}.patch": current.patch_bytes(name) for place, name in enumerate(names)}
    older = Tiny(site, tiny.write_manifest(tmp_path / "older", {RELEASE: patches}, {RELEASE: wheel}), RELEASE)
    newer = Tiny(site, current, RELEASE)
    changed = sorted(current.locked_files(series))
    inits = [path for path in changed if path.endswith("/__init__.py")]
    assert len(inits) > 2
    for path in sorted((site / "lmcache").rglob("*.py")):
        py_compile.compile(str(path), invalidation_mode=mode)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    assert older.apply().exit is Exit.OK
    assert newer.check().exit is Exit.PENDING
    assert newer.apply().exit is Exit.OK
    for path in changed:
        source = site / path
        if path.endswith(".py"):
            code = marshal.loads(Path(importlib.util.cache_from_source(str(source))).read_bytes()[16:])
            assert code.co_filename == str(source)
            assert code == compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    assert newer.check().exit is Exit.OK
    assert newer.rollback().exit is Exit.OK
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
