"""Two releases of LMCache, a run killed in one of them, and an installer that then replaces the release."""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gaudi_patch.disk import Disk
from gaudi_patch.errors import Exit
from tests.support import scenarios, tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree

OLD, NEW = "0.5.5", "0.5.6"
Files = dict[str, bytes]
#: Two releases: each has a file that the other lacks.
RELEASES: dict[str, Files] = {
    OLD: {**scenarios.FEW, "lmcache/only_old.py": b"OLD = 1\n"},
    NEW: {
        **scenarios.FEW,
        "lmcache/engine.py": b"def device():\n    return 'cuda:0'\n",
        "lmcache/only_new.py": b"N = 1\n",
    },
}
SERIES: dict[str, Mapping[str, bytes | None]] = {
    OLD: {**scenarios.FEW_PATCHED, "lmcache/only_old.py": b"OLD = 2\n", "lmcache/gaudi/old.py": b"OLD = 3\n"},
    NEW: {**scenarios.FEW_PATCHED, "lmcache/only_new.py": b"N = 2\n", "lmcache/gaudi/new.py": b"NEW = 3\n"},
}

#: An older series for the old release: it changes one file differently, and another that the new series leaves alone.
OLDER: Mapping[str, bytes | None] = {
    "lmcache/engine.py": b"OLDER = 1\n",
    "lmcache/gaudi/__init__.py": b"OLDER = 2\n",
    "lmcache/gaudi/older.py": b"OLDER = 3\n",
    "lmcache/hpu/__init__.py": b"OLDER = 4\n",
}


class World:
    """Wheels of two releases, and a manifest with a series for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = {version: fake_wheel(folder / "wheels", version, files) for version, files in RELEASES.items()}
        patches = {
            version: {f"{version}.patch": tiny.patch(RELEASES[version], files)} for version, files in SERIES.items()
        }
        self.manifest = tiny.write_manifest(folder / "patches", patches, self.wheels)
        older = {OLD: {"older.patch": tiny.patch(RELEASES[OLD], OLDER)}}
        self.older = tiny.write_manifest(folder / "older", older, self.wheels)
        self.site = folder / "site"

    def target(self, version: str) -> Tiny:
        return Tiny(self.site, self.manifest, version, RELEASES[version], SERIES[version])

    def install(self, version: str, installer: str = "pip", *, compiled: bool = True) -> None:
        """Install like pip: remove what the installed RECORD lists and its empty directories, then unpack the wheel."""
        for info in self.site.glob("lmcache-*.dist-info"):
            if (info / "RECORD").exists():
                uninstall(self.site, info)
        unpack(self.wheels[version], self.site, installer)
        if compiled:
            scenarios.compile_all(self.site)

    def clean(self, version: str) -> dict[str, tiny.Node]:
        """Return the tree of an untouched installation of ``version``."""
        kept = self.site.with_name("kept")
        shutil.rmtree(kept, ignore_errors=True)
        if self.site.exists():
            self.site.rename(kept)
        self.install(version)
        found = tree(self.site)
        shutil.rmtree(self.site)
        if kept.exists():
            kept.rename(self.site)
        return found


def uninstall(site: Path, info: Path) -> None:
    """Remove the files in RECORD and their bytecode, as pip and uv do, and then empty directories."""
    listed = [row[0] for row in csv.reader((info / "RECORD").read_text().splitlines()) if row]
    for name in listed:
        file = site / name
        file.unlink(missing_ok=True)
        if file.suffix == ".py":
            for cached in file.parent.glob(f"__pycache__/{file.stem}.cpython-*.pyc"):
                cached.unlink()
    for name in sorted({*listed}, reverse=True):
        for parent in (site / name).parents:
            with contextlib.suppress(OSError):
                if parent.is_relative_to(site) and parent != site:
                    cache = parent / "__pycache__"
                    if cache.is_dir():
                        cache.rmdir()
                    parent.rmdir()


#: Per run: the series applied before it, and its command. "older" is a series of the same release.
VERBS: dict[str, tuple[str, str]] = {
    "apply": ("", "apply"),
    "rollback": ("present", "rollback"),
    "update": ("older", "apply"),
}


def prepared(world: World, verb: str, version: str) -> Callable[[Disk], object]:
    """Install ``version``, apply the series that the run needs, and return the run itself."""
    shutil.rmtree(world.site, ignore_errors=True)
    world.install(version)
    target = world.target(version)
    before, name = VERBS[verb]
    if before:
        manifest = world.older if before == "older" else world.manifest
        assert replace(target, manifest=manifest).apply().exit is Exit.OK
    run: Callable[[Disk], object] = getattr(target, name)
    return run


def steps(world: World, verb: str, version: str) -> int:
    """Return the number of steps in a run of ``verb``."""
    recorder = Recorder()
    prepared(world, verb, version)(recorder)
    return len(recorder.calls)


def before_record(world: World) -> int:
    """Return the step of an apply right before it replaces RECORD, when nothing lists the created files yet."""
    shutil.rmtree(world.site, ignore_errors=True)
    world.install(OLD)
    recorder = Recorder()
    world.target(OLD).apply(recorder)
    return next(at for at, (name, path) in enumerate(recorder.calls) if (name, path.name) == ("replace", "RECORD"))


def kill(world: World, verb: str, version: str, at: int) -> None:
    """Install ``version`` and kill a run of ``verb`` before its step ``at``."""
    run = prepared(world, verb, version)
    assert in_child(lambda: run(KillAt(at))) == KILLED


def leftovers(site: Path) -> list[str]:
    """Return the names of all paths that gaudi-patch left behind."""
    return [path.name for path in site.rglob("*") if "gaudi-patch" in path.name]
