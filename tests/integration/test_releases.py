"""Every release that has a series in the manifest.

By default, in memory: each series applies to its wheel, compiles, and gives the result in the lock. One command runs
the whole round, with the smoke checks on the emulated HPU, and ends with the table of releases and levels::

    pytest -m releases tests/integration/test_releases.py

``GAUDI_PATCH_TEST_RELEASES=0.4.4,0.5.6`` selects these releases only; ``GAUDI_PATCH_TEST_TABLE=FILE`` also writes the
table to a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from gaudi_patch.authoring import lock
from gaudi_patch.series.manifest import Kind, load
from tests.support import environments, release_table
from tests.support.cli import command, gaudi_patch
from tests.support.cli import environment as cli_environment
from tests.support.environments import Environment, EnvironmentUnavailableError

pytestmark = pytest.mark.wheels

MANIFEST = load()
SERIES = {lock.release_of(series): series for series in MANIFEST.series}
RELEASES = sorted(SERIES, key=Version)
NEWEST = RELEASES[-1]
_ASKED = os.environ.get("GAUDI_PATCH_TEST_RELEASES", "all")
WANTED = RELEASES if _ASKED == "all" else [version for version in RELEASES if version in _ASKED.split(",")]
OTHER_PYTHONS = ("3.10", "3.12", "3.13")
#: All releases on PyPI from the first that a Gaudi user can meet; there is no 0.3.8 and no 0.4.0.
ON_PYPI = (
    "0.3.7",
    "0.3.9",
    "0.3.9.post1",
    "0.3.9.post2",
    "0.3.10",
    "0.3.10.post1",
    "0.3.10.post2",
    "0.3.11",
    "0.3.12",
    "0.3.13",
    "0.3.14",
    "0.3.15",
    "0.4.1",
    "0.4.2",
    "0.4.3",
    "0.4.4",
    "0.4.5",
    "0.4.6",
    "0.4.7",
    "0.5.0",
    "0.5.1",
    "0.5.2",
    "0.5.3",
    "0.5.4",
    "0.5.5",
    "0.5.6",
)

#: Eager mode compiles some thousand graphs in level kernels, which takes long on a loaded machine.
LEVEL_TIMEOUT = 1200


@pytest.mark.parametrize("version", ON_PYPI)
def test_the_release_has_exactly_one_series(version: str) -> None:
    verdict = MANIFEST.verdict(version)
    assert verdict.kind is Kind.SERIES, verdict
    assert verdict.series is SERIES[version]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1.post1", "0.3.6"])
def test_a_release_that_cannot_work_is_refused_with_advice(version: str) -> None:
    verdict = MANIFEST.verdict(version)
    assert verdict.kind is Kind.REFUSED
    assert "0.3.9" in verdict.advice


def test_a_release_after_the_newest_is_unknown() -> None:
    verdict = MANIFEST.verdict("0.99.0")
    assert verdict.kind is Kind.UNKNOWN
    assert verdict.nearest is SERIES[NEWEST]


def test_every_series_applies_to_its_wheel_and_compiles_to_what_the_lock_says(
    lmcache_wheel: Callable[..., Path],
) -> None:
    generated = lock.generate(MANIFEST.directory, lmcache_wheel)
    assert generated == (MANIFEST.directory / "manifest.lock").read_bytes()


def test_the_runtime_is_in_every_series_and_in_the_repository_once() -> None:
    assert {series.patches[0] for series in MANIFEST.series} == {"runtime"}
    creating = [name for name in MANIFEST.patches if b"b/lmcache/gaudi/device.py" in MANIFEST.patch_bytes(name)]
    assert creating == ["runtime"]


@pytest.mark.parametrize("version", RELEASES)
def test_the_routing_of_a_release_is_small(version: str) -> None:
    """Up to 85 changed lines from 0.4.3 on, 120 before: identity, promises, slabs, telemetry each have a route."""
    changed = 0
    for name in SERIES[version].patches[1:]:
        for line in MANIFEST.patch_bytes(name).splitlines():
            changed += line.startswith((b"+", b"-")) and not line.startswith((b"+++ ", b"--- "))
    assert 0 < changed <= (85 if Version(version) >= Version("0.4.3") else 120)


def _same_files(version: str, python: str) -> None:
    """Check that the wheel for another Python has the same bytes in every file that the series changes."""
    try:
        wheel = environments.wheel(version, python)
    except EnvironmentUnavailableError as error:
        if "No matching distribution found" in str(error):
            pytest.skip(f"no wheel of {version} for Python {python}: {error}")
        raise
    files = SERIES[version].files
    assert len(files) > 10
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path, (before, _) in files.items():
            found = hashlib.sha256(archive.read(path)).hexdigest() if path in names else None
            assert found == before, path


@pytest.mark.parametrize("python", OTHER_PYTHONS)
def test_the_newest_wheel_for_another_python_holds_the_same_files(
    python: str, lmcache_wheel: Callable[..., Path]
) -> None:
    lmcache_wheel(NEWEST, python)  # skips with the reason if it is not available
    _same_files(NEWEST, python)


@pytest.mark.releases
@pytest.mark.parametrize("python", OTHER_PYTHONS)
@pytest.mark.parametrize("version", WANTED)
def test_the_wheel_for_another_python_holds_the_same_files(version: str, python: str) -> None:
    _same_files(version, python)


def _tree(environment: Environment) -> dict[str, str]:
    """Return every file by hash, except bytecode, which running LMCache creates."""
    root = environment.site_packages
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _smoke(environment: Environment) -> tuple[int, list[dict[str, Any]]]:
    arguments = command(
        "smoke", *release_table.LEVELS, "--device", "emulated", "--python", environment.python, "--json"
    )
    done = subprocess.run(
        [*arguments, "--smoke-timeout", str(LEVEL_TIMEOUT)],
        capture_output=True,
        text=True,
        env=cli_environment(),
        timeout=LEVEL_TIMEOUT * 6,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)["data"]["levels"]


@pytest.mark.releases
@pytest.mark.torch
@pytest.mark.parametrize("version", WANTED)
def test_a_release_passes_every_level_patched_and_fails_as_it_was_once_rolled_back(
    version: str, lmcache_copy: Callable[[str], Environment], record_property: Callable[[str, object], None]
) -> None:
    """Levels that pass without the patch prove nothing about it; the table lists them per release."""
    target = lmcache_copy(version)
    target.run("-m", "compileall", "-q", target.site_packages / "lmcache")  # as pip does; spares every probe the time
    before = _tree(target)
    options = ("--python", target.python)
    assert gaudi_patch("check", *options).code == 10
    assert gaudi_patch("apply", "--no-smoke", *options).code == 0
    assert gaudi_patch("check", *options).code == 0
    code, levels = _smoke(target)
    record_property(release_table.PROPERTY, release_table.row(version, patched=True, levels=levels))
    assert [(one["level"], one["rules"], one["status"]) for one in levels] == [
        (level, rules, "passed") for level in release_table.LEVELS for rules in ("lazy", "eager")
    ], [one["reason"] for one in levels]
    assert code == 0
    assert all(one["checks"] > 0 and one["device"] == "emulated" for one in levels)
    assert gaudi_patch("rollback", *options).code == 0
    assert _tree(target) == before
    code, levels = _smoke(target)
    record_property(release_table.PROPERTY, release_table.row(version, patched=False, levels=levels))
    assert code == 5
    assert "failed" in {one["status"] for one in levels if one["level"] != "imports"}
