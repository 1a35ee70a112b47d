"""LMCache's own tests that pass unpatched also pass patched: a sample of one release; all families with FULL."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.scripts import upstream_tests
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"


@pytest.mark.parametrize("version", upstream_tests.FAMILIES if FULL else ["0.5.6"])
def test_what_passes_unpatched_passes_patched(version: str) -> None:
    try:
        compared = upstream_tests.compare(version, upstream_tests.SAMPLE, "host")
    except EnvironmentUnavailableError as error:
        unavailable(error)
    assert sum(one == "passed" for one in compared.before.values()) >= 20, compared.before
    assert compared.lost == []


def test_what_fails_patched_has_a_second_try_and_is_lost_if_it_fails_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Sequence[str]] = []
    patched = iter([{"t/a.py::x": "failed", "t/a.py::y": "failed", "t/b.py::z": "passed"}, {"t/a.py::x": "passed"}])

    def outcomes(package: str, work: Path, wanted: Sequence[str], device: str) -> dict[str, str]:
        runs.append(wanted)
        return dict.fromkeys(("t/a.py::x", "t/a.py::y", "t/b.py::z"), "passed") if package == "0" else next(patched)

    monkeypatch.setattr(upstream_tests, "unpack_tests", lambda version, folder: folder)
    monkeypatch.setattr(upstream_tests, "tree", lambda version, folder, patched: str(int(patched)))
    monkeypatch.setattr(upstream_tests, "outcomes", outcomes)
    compared = upstream_tests.compare("0.5.6", ["t"], "host")
    assert (compared.lost, compared.retried) == (["t/a.py::y"], ["t/a.py::x"])
    assert compared.after["t/a.py::x"] == "failed"
    assert runs[-1] == ["t/a.py"]


def test_a_test_that_fails_patched_alone_is_lost_unless_it_is_refused() -> None:
    before = {"a::x": "passed", "a::y": "passed", "a::z": "failed", "a::w": "passed"}
    after = {"a::x": "passed", "a::y": "failed", "a::z": "failed"}
    assert upstream_tests.lost(before, after, {}) == ["a::w", "a::y"]
    assert upstream_tests.lost(before, after, {"a::y": "refused", "*::w": "refused"}) == []


@pytest.mark.parametrize("files", [2, 20])
def test_a_test_that_ends_its_process_leaves_the_others_their_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr(upstream_tests, "_FILES", files)
    work, package = tmp_path / "work", tmp_path / "tree"
    for folder in (work / "tests", package):
        folder.mkdir(parents=True)
    child = tmp_path / "child"
    starts = (
        f"    started = subprocess.Popen(['sleep', '600'])\n    open({str(child)!r}, 'w').write(str(started.pid))\n"
    )
    ends = f"import os, subprocess\ndef test_it():\n{starts}    os._exit(3)\ndef test_next(): pass\n"
    (work / "tests" / "test_ends.py").write_text(ends)
    (work / "tests" / "test_imports.py").write_text("import os\nos._exit(3)\n")
    (work / "tests" / "test_lives.py").write_text("def test_it(): pass\n")
    try:
        found = upstream_tests.outcomes(package, work, ["tests"], "host")
    except EnvironmentUnavailableError as error:
        unavailable(error)
    assert found == {
        "tests/test_ends.py::test_it": "failed",
        "tests/test_ends.py::test_next": "passed",
        "tests/test_imports.py": "failed",
        "tests/test_lives.py::test_it": "passed",
    }
    status = Path("/proc", child.read_text(), "stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z", "its child goes on"


def test_a_report_says_what_became_of_each_test_and_which_one_was_under_way(tmp_path: Path) -> None:
    lines = [
        ("tests/a.py", "collecting"),
        ("tests/a.py", "collected"),
        ("tests/b.py", "collecting"),
        ("tests/b.py", "failed"),
        ("a::x", "started"),
        ("a::x", "passed"),
        ("a::x", "failed"),
        ("a::x", "passed"),
        ("a::y", "started"),
        ("a::y", "skipped"),
        ("a::y", "passed"),
        ("a::z", "started"),
        ("a::z", "passed"),
    ]
    report = tmp_path / "report"
    report.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    outcomes = {"tests/b.py": "failed", "a::x": "failed", "a::y": "skipped", "a::z": "passed"}
    assert upstream_tests.read(report) == (outcomes, "a::z")
    with report.open("a") as stream:
        stream.write('\nprinted by a test\n["", "ended"]\n["cut off')
    assert upstream_tests.read(report) == (outcomes, None)


def test_a_test_that_takes_too_long_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_tests, "_SECONDS", 3)
    work = tmp_path / "work"
    (work / "tests").mkdir(parents=True)
    (work / "tests" / "test_hangs.py").write_text("import time\ndef test_it(): time.sleep(600)\n")
    (work / "tests" / "test_lives.py").write_text("def test_it(): pass\n")
    try:
        found = upstream_tests.outcomes(tmp_path / "tree", work, ["tests"], "host")
    except EnvironmentUnavailableError as error:
        unavailable(error)
    assert found == {"tests/test_hangs.py::test_it": "failed", "tests/test_lives.py::test_it": "passed"}
