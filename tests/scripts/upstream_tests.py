"""LMCache's own tests, from its sdist on PyPI, on the unpatched and on the patched release.

    python -m tests.scripts.upstream_tests 0.5.6 [--device emulated] [--tests tests/v1/platform ...]

A test that passes unpatched must pass patched, at its second try at the latest, or be listed in ``REFUSED`` with its
reason. Exit 0: all do; 1: the others are named. The tests run from a separate directory, with the release's wheel on
the path, so they test what pip installs. Without ``--tests``, the whole suite runs, which takes tens of minutes on two
cores.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import load
from tests.support import environments
from tests.support.environments import clean_environment

REPOSITORY = Path(__file__).resolve().parents[2]
PATCHES = REPOSITORY / "patches"
EMULATOR = REPOSITORY / "gaudi_patch" / "emulator"

#: One release of each family that has a series.
FAMILIES = ("0.3.7", "0.3.10", "0.3.13", "0.4.2", "0.4.4", "0.5.1", "0.5.3", "0.5.6")
#: A sample that takes a minute or two: the parts that the routing hunks change.
SAMPLE = (
    "tests/v1/platform/test_device_ops.py",
    "tests/v1/test_token_database.py",
    "tests/v1/test_mm_hash_utils.py",
    "tests/v1/test_kv_layer_groups_manager.py",
    "tests/v1/test_retrieve_pin_ownership.py",
)
#: Tests that the patch fails by design on an HPU: a pattern of the test's name, and the reason.
_DEGRADED = "an engine that could not start its cache ends with the reason: without one it would go on without a word"
_PRETENDED = "it tells LMCache alone of a device, on a host with an HPU: the connector is that of the HPU"
_WORDS = "refused as well, with the patches' error, which names every setting that is refused and why"
REFUSED: Mapping[str, str] = {
    "*::TestLMCacheManagerInitFailure::test_init_components_exception_makes_unhealthy": _DEGRADED,
    "*::TestLMCacheManagerInitFailure::test_post_init_exception_makes_unhealthy": _DEGRADED,
    "*::TestLMCacheManagerInitFailure::test_post_init_skipped_when_init_failed": _DEGRADED,
    "*/test_musa_support.py::test_create_gpu_connector_*musa*": _PRETENDED,
    "*/test_musa_support.py::test_create_gpu_connector_blending_rejected_on_unsupported_devices[[]hpu[]]": _WORDS,
    "*/test_musa_support.py::test_create_gpu_connector_layerwise_rejected_on_hpu": _WORDS,
}

_TEST_TOOLS = ("pytest<9.1", "pytest-asyncio", "python-multipart", "httpx", "protobuf", "grpcio")
_BUILD_TOOLS = ("setuptools", "setuptools_scm", "packaging", "wheel", "ninja")
#: A test that takes longer has failed.
_SECONDS = 300
#: Files of tests for each process. Many tests never free their memory pools: whole suites of 0.5.3 took 10 GB in one.
_FILES = 20


def sdist(version: str) -> Path:
    """Return the release's sdist, downloaded once into the cache; pip reads its metadata, which needs build tools."""
    folder = environments.cache_dir() / "sdists" / version
    with environments._made_once(folder) as missing:
        if missing:
            folder.mkdir(parents=True)
            selection = ["--no-deps", "--no-binary", "lmcache", "--no-build-isolation", "--dest", str(folder)]
            done = subprocess.run(
                [
                    str(environments.torch_python()),
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    *selection,
                    f"lmcache=={version}",
                ],
                env=clean_environment() | {"PYTHONPATH": str(_tools("build", _BUILD_TOOLS)), "NO_CUDA_EXT": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise environments.EnvironmentUnavailableError(f"no sdist of LMCache {version}: {done.stderr[-800:]}")
    return next(folder.glob("lmcache-*.tar.gz"))


def _tools(name: str, wanted: Sequence[str]) -> Path:
    base = environments.torch_python()
    folder = (
        environments.cache_dir()
        / "tools"
        / f"{name}-{environments._digest(str(base).encode(), *map(str.encode, wanted))}"
    )
    with environments._made_once(folder) as missing:
        if missing:
            command = [str(base), "-m", "pip", "install", "--quiet", "--target", str(folder), *wanted]
            environments._call(command, f"cannot install {', '.join(wanted)}")
    return folder


def tree(version: str, folder: Path, *, patched: bool) -> Path:
    """Unpack the release's wheel below ``folder``, and apply its series if it is to be patched."""
    place = folder / ("patched" if patched else "unpatched")
    python = environments._interpreter(environments.torch_python()).version
    with zipfile.ZipFile(environments.wheel(version, python)) as archive:
        archive.extractall(place)
    series = load(PATCHES).by_id(version)
    if series is None:
        raise ValueError(f"no series for LMCache {version}")
    for name in series.patches if patched else ():
        subprocess.run(
            ["git", "apply", "-p1", "--whitespace=nowarn"],
            cwd=place,
            input=patch_files.read(PATCHES, name),
            check=True,
            env=clean_environment() | {"GIT_CEILING_DIRECTORIES": str(folder)},
        )
    return place


def unpack_tests(version: str, folder: Path) -> Path:
    """Unpack ``tests/`` of the sdist below ``folder``, without LMCache itself, which would shadow the release."""
    place = folder / "sdist"
    with tarfile.open(sdist(version)) as archive:
        archive.extractall(place, filter="data")
    (top,) = place.glob("lmcache-*")
    work = folder / "work"
    work.mkdir()
    shutil.move(top / "tests", work / "tests")
    if (top / "pytest.ini").is_file():
        shutil.move(top / "pytest.ini", work / "pytest.ini")
    return work


def outcomes(package: Path, work: Path, wanted: Sequence[str], device: str) -> dict[str, str]:
    """Run the tests on one tree; return passed, failed or skipped for each test by name.

    A test that ends the whole process, or that takes too long, has failed. Those without an outcome go on in another
    process. A file that ends the process as it is imported counts as one failed test.
    """
    files = _files(work, wanted)
    found: dict[str, str] = {}
    for start in range(0, len(files), _FILES):
        found |= _outcomes(package, work, files[start : start + _FILES], device)
    return found


def _outcomes(package: Path, work: Path, files: list[str], device: str) -> dict[str, str]:
    """Run the tests of some files: in one process, unless a test ends it."""
    found: dict[str, str] = {}
    while files:
        done, running = _run(package, work, files, device, found)
        if running is None:
            return done | found
        if running in found or not running:
            raise RuntimeError(f"the tests ended without an outcome, at {running or 'their start'}")
        found |= {name: outcome for name, outcome in done.items() if name not in found} | {running: "failed"}
        files = [file for file in files if file != running]
    return found


def _files(work: Path, wanted: Sequence[str]) -> list[str]:
    """Return the files of tests in these directories and files."""
    files: list[str] = []
    for path in wanted:
        below = sorted((work / path).rglob("test_*.py")) if (work / path).is_dir() else [work / path]
        files += [str(file.relative_to(work)) for file in below]
    return files


#: Runs pytest, and writes a line for each test as it starts and as it ends, so that they outlive the process.
_RUNNER = """
import json, os, sys, pytest

class Reports:
    def __init__(self, path):
        self.path, self.process = path, os.getpid()
    def write(self, name, outcome):
        if os.getpid() == self.process:
            with open(self.path, "a") as stream:  # anew: some tests close files that are not theirs
                print(json.dumps([name, outcome]), file=stream)
    def pytest_collectstart(self, collector):
        self.write(collector.nodeid, "collecting")
    def pytest_collection_modifyitems(self, config, items):
        with open(sys.argv[2]) as stream:
            done = set(json.load(stream))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]
    def pytest_collectreport(self, report):
        if report.failed:
            self.write(report.nodeid, "failed")
        else:
            self.write(report.nodeid, "collected")
    def pytest_runtest_logstart(self, nodeid, location):
        self.write(nodeid, "started")
    def pytest_runtest_logreport(self, report):
        self.write(report.nodeid, report.outcome)
    def pytest_sessionfinish(self, session, exitstatus):
        self.write("", "ended")

sys.exit(pytest.main(sys.argv[3:], plugins=[Reports(sys.argv[1])]))
"""


def _run(
    package: Path, work: Path, files: Sequence[str], device: str, done: Mapping[str, str]
) -> tuple[dict[str, str], str | None]:
    """Run the tests of files that are not done; return the outcomes, and the test that ended it or took too long."""
    report = package.with_suffix(".jsonl")
    report.unlink(missing_ok=True)
    options = ["-q", "--continue-on-collection-errors", "-o", "log_cli=false", "-p", "no:cacheprovider"]
    start = [str(EMULATOR), "--lazy"] if device == "emulated" else []
    runner = work / "run_pytest.py"
    runner.write_text(_RUNNER)
    known = work / "done.json"
    known.write_text(json.dumps([*done]))
    process = subprocess.Popen(
        [
            *(str(environments.torch_python()), "-B", *start, str(runner), str(report), str(known), *options),
            *(f"--rootdir={work}", *files),
        ],
        cwd=work,
        env=clean_environment()
        | {"PYTHONPATH": f"{package}:{work}:{_tools('tests', _TEST_TOOLS)}", "OMP_NUM_THREADS": "1"}
        | {"LMCACHE_TRACK_USAGE": "false", "PYTHONHASHSEED": "0"},
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        _wait(process, report)
    finally:
        # Some tests start processes, which go on where the test ends its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return read(report)


def _wait(process: subprocess.Popen[bytes], report: Path) -> None:
    """Wait until the process has ended, or one of its tests has taken too long."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return
        since = report.stat().st_mtime if report.exists() else time.time()
        if time.time() - since > _SECONDS:
            return


def read(report: Path) -> tuple[dict[str, str], str | None]:
    """Return the outcome of each test that a report has, and the test or file under way at its end, if it ended early.

    A module that could not be imported counts as failed. A test fails with its setup and its teardown, too.
    """
    found: dict[str, str] = {}
    running: str | None = ""
    for line in report.read_text().splitlines():
        try:
            name, outcome = json.loads(line)
        except ValueError:  # not written by the runner, or cut off at its end
            continue
        if outcome == "started":
            running = name
        elif outcome == "collecting":
            running = name.partition("::")[0]
        elif outcome == "ended":
            running = None
        elif outcome != "collected" and found.get(name, "passed") == "passed":
            found[name] = outcome
    return found, running


def lost(before: Mapping[str, str], after: Mapping[str, str], refused: Mapping[str, str]) -> list[str]:
    """Return the tests that pass unpatched, fail patched, and are not refused by design."""
    return sorted(
        name
        for name, outcome in before.items()
        if outcome == "passed"
        and after.get(name) != "passed"
        and not any(fnmatch.fnmatch(name, pattern) for pattern in refused)
    )


@dataclass(frozen=True)
class Comparison:
    """What became of the tests on both trees.

    Attributes:
        before: Outcomes on the unpatched release, by test.
        after: Those on the patched one.
        lost: Tests that the patch has lost: they failed twice.
        retried: Tests that failed on the patched release, and passed at their second try.
    """

    before: dict[str, str]
    after: dict[str, str]
    lost: list[str]
    retried: list[str]


def compare(version: str, wanted: Sequence[str], device: str) -> Comparison:
    """Run the tests on both trees, and those that are lost a second time.

    Some of LMCache's tests want a port that another process may have taken, or have no patience with a busy machine.
    """
    refused = REFUSED if device == "emulated" else {}
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-upstream-") as name:
        folder = Path(name)
        work = unpack_tests(version, folder)
        there = [path for path in wanted if (work / path).exists()] or ["tests"]
        before = outcomes(tree(version, folder, patched=False), work, there, device)
        patched = tree(version, folder, patched=True)
        after = outcomes(patched, work, there, device)
        names = lost(before, after, refused)
        again = outcomes(patched, work, sorted({name.partition("::")[0] for name in names}), device)
    retried = [name for name in names if again.get(name) == "passed"]
    return Comparison(before, after, [name for name in names if name not in retried], retried)


def main() -> int:
    """Compare, and print the counts and the lost tests."""
    parser = argparse.ArgumentParser(description="Run LMCache's own tests, unpatched and patched.")
    parser.add_argument("versions", nargs="*", default=FAMILIES)
    parser.add_argument("--device", choices=("host", "emulated"), default="host")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="paths in the sdist (default: all)")
    options = parser.parse_args()
    worse = False
    for version in options.versions:
        compared = compare(version, options.tests, options.device)
        for label, found in (("unpatched", compared.before), ("patched", compared.after)):
            counts = {kind: sum(one == kind for one in found.values()) for kind in ("passed", "failed", "skipped")}
            print(f"{version} {options.device} {label}: {counts}")
        for name in compared.retried:
            print(f"passed at its second try: {name}")
        print("\n".join(f"lost: {name}" for name in compared.lost) or "nothing lost")
        worse = worse or bool(compared.lost)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
