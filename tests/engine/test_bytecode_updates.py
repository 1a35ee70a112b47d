"""Each cached .pyc matches its own source after any apply, update or rollback.

The oracle is Python itself (`tests.support.pyc`).
"""

from __future__ import annotations

import py_compile
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.faults import FULL, KILLED, KillAt, Recorder, in_child, memory_folder
from tests.support.pyc import MODES, Mode, cached, compile_site, foreign
from tests.support.tiny import VERSION, Tiny, tree

#: Directories of the package; each has an ``__init__.py`` and a module of the same name.
PACKAGES = ("lmcache", "lmcache/v1", "lmcache/v1/platform", "lmcache/v1/platform/hpu", "lmcache/v1/gpu_connector")
CREATED = ("lmcache/gaudi", "lmcache/gaudi/ops")

Files = dict[str, bytes | None]


def pristine() -> dict[str, bytes]:
    """Return a release with many modules of the same name and different code."""
    return {
        f"{package}/{name}.py": f"NAME = {package + '/' + name!r}\nDEVICE = 'cuda'\n".encode()
        for package in PACKAGES
        for name in ("__init__", "base")
    }


def series(choose: random.Random) -> Files:
    """Return the files as the series leaves them: some changed, deleted, or created in a new directory."""
    files: Files = {}
    for path in pristine():
        kind = choose.choice(["keep", "change", "change", "delete" if path.endswith("base.py") else "keep"])
        if kind != "keep":
            code = f"NAME = {path!r}\nDEVICE = 'hpu'\nSERIES = {choose.randrange(3)}\n".encode()
            files[path] = None if kind == "delete" else code
    for package in CREATED[: choose.randrange(3)]:
        for name in ("__init__", "base"):
            files[f"{package}/{name}.py"] = f"NAME = {package + '/' + name!r}\nN = {choose.randrange(3)}\n".encode()
    return files or {"lmcache/__init__.py": b"NAME = 'lmcache/__init__'\n"}


class Family:
    """One release in ``folder``, and manifests with different series for it."""

    def __init__(self, folder: Path, choices: Mapping[str, Files]) -> None:
        wheel = fake_wheel(folder / "wheels", VERSION, dict(pristine()))
        self.site = folder / "site"
        unpack(wheel, self.site, "pip")
        self.targets = {}
        for name, files in choices.items():
            patches = {VERSION: {f"{name}.patch": tiny.patch(pristine(), files)}}
            manifest = tiny.write_manifest(folder / name, patches, {VERSION: wheel})
            self.targets[name] = Tiny(self.site, manifest, VERSION, pristine(), files)


def older_and_newer() -> dict[str, Files]:
    """Return two series that change and create several ``__init__.py`` each."""
    older: Files = {f"{package}/__init__.py": b"OLDER = %r\n" % package for package in PACKAGES[:3]}
    newer: Files = {f"{package}/__init__.py": b"NEWER = %r\n" % package for package in PACKAGES}
    newer["lmcache/gaudi/__init__.py"] = b"GAUDI = 1\n"
    older["lmcache/gaudi/__init__.py"] = b"GAUDI = 0\n"
    return {"older": older, "newer": newer}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_after_an_update_each_module_runs_its_own_code(mode: str, own: bool, tmp_path: Path) -> None:
    """Every ``__init__`` was once mistaken for a variant of every other, and check reported success."""
    family = Family(tmp_path, older_and_newer())
    compile_site(family.site, MODES[mode], ("",), None)
    before = tree(family.site)
    python = Path(sys.executable) if own else None
    older, newer = (replace(family.targets[name], python=python) for name in ("older", "newer"))
    older.apply()
    assert newer.apply().exit is Exit.OK
    assert foreign(family.site, None) == []
    assert newer.check().exit is Exit.OK
    newer.rollback()
    assert tree(family.site) == before


#: Number of trees to try; 400 with GAUDI_PATCH_TEST_FULL=1.
TREES = 400 if FULL else 16


def test_whatever_was_applied_over_whatever_each_module_runs_its_own_code(
    record_property: Callable[[str, object], None],
) -> None:
    """Any three series of one release, applied over each other and rolled back, in every mode of bytecode."""
    modes = [*MODES, "none"]
    for number in range(TREES):
        choose = random.Random(number)
        with memory_folder() as folder:
            family = Family(folder, {name: series(choose) for name in ("a", "b", "c")})
            prefix = folder / "prefix" if choose.random() < 0.3 else None
            levels = tuple(sorted({choose.choice(["", "1", "2"]) for _ in range(3)}))
            mode = modes[number % 4]
            if mode != "none":
                compile_site(family.site, MODES[mode], levels, prefix)
            below = prefix or family.site
            before = tree(family.site), tree(below) if below.exists() else {}
            for name in [choose.choice("abc") for _ in range(4)]:
                target = replace(family.targets[name], pycache_prefix=str(prefix) if prefix else None)
                verb = choose.choice([target.apply, target.apply, target.rollback])
                assert verb().exit is Exit.OK
                assert foreign(below, prefix) == [], (number, name, verb)
                assert {node for node in target.sides().values() if verb == target.apply} <= {"patched"}
            target.rollback()
            assert (tree(family.site), tree(below) if below.exists() else {}) == before, number
    record_property("trees of bytecode", TREES)


def test_a_prefix_below_the_site_packages_is_a_place_of_its_own(tmp_path: Path) -> None:
    """A created module is cached next to the package's own bytecode, wherever the prefix is."""
    family = Family(tmp_path, older_and_newer())
    prefix = family.site / "cache"
    compile_site(family.site, Mode.UNCHECKED_HASH, ("",), prefix)
    before = tree(family.site)
    target = replace(family.targets["newer"], pycache_prefix=str(prefix))
    target.apply()
    assert foreign(prefix, prefix) == []
    assert cached(family.site / "lmcache/gaudi/__init__.py", prefix).exists()
    assert not list((family.site / "lmcache").rglob("__pycache__"))
    target.rollback()
    assert tree(family.site) == before


def test_what_python_cached_of_a_killed_run_goes_with_it_below_a_prefix_too(tmp_path: Path) -> None:
    """A process imported a created module before the run was killed."""
    family = Family(tmp_path, older_and_newer())
    prefix = tmp_path / "prefix"
    compile_site(family.site, Mode.UNCHECKED_HASH, ("",), prefix)
    before = tree(family.site), tree(prefix)
    target = replace(family.targets["newer"], pycache_prefix=str(prefix))
    recorder = Recorder()
    target.apply(recorder)
    at = next(at for at, (name, path) in enumerate(recorder.calls) if (name, path.name) == ("replace", "RECORD"))
    target.rollback()
    assert in_child(lambda: target.apply(KillAt(at))) == KILLED
    created = family.site / "lmcache/gaudi/__init__.py"
    py_compile.compile(str(created), str(cached(created, prefix, "1")), optimize=1)
    assert target.rollback().exit is Exit.OK
    assert (tree(family.site), tree(prefix)) == before
