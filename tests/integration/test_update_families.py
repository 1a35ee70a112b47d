"""Updates between any two series of a release family: on the files of the real releases, with all their packages.

A release's own series was made for that release alone. A series of another release also counts if its content fits, as
an older gaudi-patch may have shipped it. Each series is applied over each other one, in every mode of bytecode.
`tests.support.pyc`, which does not use gaudi_patch, then checks the files on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.series import diff, hunks
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.diff import FileDiff
from gaudi_patch.series.diff_syntax import Kind
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.faults import FULL, memory_folder
from tests.support.pyc import MODES, compile_for_another, compile_site, foreign
from tests.support.tiny import Tiny, tree

Files = dict[str, bytes | None]
CACHES = (*MODES, "none", "another interpreter's")

MANIFEST = manifests.load()
SERIES = {series.versions.removeprefix("=="): series for series in MANIFEST.series}
#: FULL: all releases, all ordered pairs, all modes; otherwise one release of each family and one pair of its series.
RELEASES = tuple(SERIES) if FULL else ("0.5.6", "0.4.2", "0.3.12")
MODES_OF = {release: CACHES if FULL or release == "0.5.6" else ("unchecked",) for release in RELEASES}


def family_of(release: str) -> list[str]:
    """Return the releases with the same first two numbers."""
    return [other for other in SERIES if other.split(".")[:2] == release.split(".")[:2]]


@cache
def changes(patch: str) -> tuple[FileDiff, ...]:
    return tuple(diff.parse(MANIFEST.patch_bytes(patch), patch))


def fitted(pristine: dict[str, bytes], patch: str, files: Files) -> Files | None:
    """Return the result of ``patch`` on a release that ``files`` has changed; None if a hunk has no unique place."""
    made: Files = {}
    for change in changes(patch):
        before = files.get(change.path, pristine.get(change.path))
        if (before is None) != (change.kind is Kind.CREATE):
            return None
        try:
            made[change.path] = hunks.apply(before or b"", change.hunks, allow_offset=before is not None)
        except (hunks.HunkMismatch, ValueError):
            return None
    return made


def series_for(pristine: dict[str, bytes], release: str) -> dict[str, Files]:
    """Return the result of each series of the family on the release, by the release that the series is named after.

    Series with the same result are merged.
    """
    found: dict[str, Files] = {}
    for other in family_of(release):
        files: Files = {}
        for patch in SERIES[other].patches:
            files |= fitted(pristine, patch, files) or {}
        if files not in found.values():
            found[other] = files
    return found


def digests(files: Files) -> dict[str, str | None]:
    return {path: None if data is None else hashlib.sha256(data).hexdigest() for path, data in files.items()}


def walk(names: list[str]) -> list[str]:
    """Return a walk that visits each ordered pair of names."""
    there_and_back = itertools.chain.from_iterable(
        (one, other) for at, one in enumerate(names) for other in names[at + 1 :]
    )
    return [name for name, _ in itertools.groupby([*there_and_back, names[0]])]


class Release:
    """One release in ``folder``: all its ``__init__.py``, all files that a series changes, and the series."""

    def __init__(self, folder: Path, wheel: Path, release: str, most: int) -> None:
        touched = {path for other in family_of(release) for path in SERIES[other].files}
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith("lmcache/")]
            self.pristine = {
                name: archive.read(name) for name in names if name in touched or name.endswith("/__init__.py")
            }
        self.release = release
        series = series_for(self.pristine, release)
        own = {path: locked.after for path, locked in SERIES[release].files.items()}
        assert own in [digests(files) for files in series.values()], "none of them is the series that is shipped"
        names = random.Random(release).sample(list(series), min(most, len(series)))
        self.series = {name: series[name] for name in names}
        self.wheel = fake_wheel(folder / "wheels", release, dict(self.pristine))
        self.site = folder / "site"
        unpack(self.wheel, self.site)
        self.targets = {name: self._target(folder / name, files) for name, files in self.series.items()}

    def _target(self, folder: Path, files: Files) -> Tiny:
        patches = {self.release: {"series.patch": tiny.patch(self.pristine, files)}}
        manifest = tiny.write_manifest(folder, patches, {self.release: self.wheel})
        return Tiny(self.site, manifest, self.release, self.pristine, files)

    def sources(self) -> Files:
        return {
            path.relative_to(self.site).as_posix(): path.read_bytes() for path in self.site.rglob("lmcache/**/*.py")
        }

    def walked(self, names: list[str], cache: str) -> Iterator[tuple[str, str]]:
        """Apply one series over the other; yield each update after the files on disk were found correct."""
        if cache == "another interpreter's":
            compile_for_another(self.site)
        elif cache != "none":
            compile_site(self.site, MODES[cache], ("", "1") if cache == "unchecked" else ("",), None)
        before = tree(self.site)
        for last, name in zip([None, *names], names, strict=False):
            target = self.targets[name]
            assert target.apply().exit is Exit.OK
            assert self.sources() == self.pristine | self.series[name], (last, name)
            assert foreign(self.site, None) == [], (last, name)
            assert target.check().exit is Exit.OK
            if last:
                yield last, name
        self.targets[names[-1]].rollback()
        assert tree(self.site) == before
        for file in self.site.rglob("*.pyc"):
            file.unlink()


@pytest.mark.wheels
@pytest.mark.parametrize("release", RELEASES)
def test_an_update_between_any_two_series_leaves_each_module_its_own_code(
    release: str, lmcache_wheel: Callable[..., Path], record_property: Callable[[str, object], None]
) -> None:
    """In every mode of bytecode: walk from each series to each other one, and back to the release, byte for byte."""
    wheel = lmcache_wheel(release)
    tried: set[tuple[str, str, str]] = set()
    with memory_folder() as folder:
        there = Release(folder, wheel, release, most=99 if FULL else 2)
        names = list(there.series)
        for cache in MODES_OF[release]:
            names.reverse()
            steps = walk(names) if FULL else names
            tried |= {(last, name, cache) for last, name in there.walked(steps, cache)}
    record_property("updates between real series", len(tried))
    assert len(tried) == len(MODES_OF[release]) * (len(names) * (len(names) - 1) if FULL else 1)
