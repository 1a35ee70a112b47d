"""A probe's report follows from its checks, whatever happens in the probe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.smoke import outcome
from gaudi_patch.smoke.levels import PROBES


def _run(tmp_path: Path, body: str) -> tuple[int, dict[str, Any]]:
    """Run a probe with this body (of a function of ``probe``); return its exit status and result."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    script = tmp_path / "probe.py"
    script.write_text(
        f"import sys\nsys.path.append({str(PROBES)!r})\nimport _probe\n"
        f"def body(probe):\n{lines}\n_probe.main('imports', body)\n"
    )
    answer = tmp_path / "result.json"
    command = [sys.executable, str(script), "--result", str(answer), "--rules", "lazy", "--device", "emulated"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(answer.read_bytes())


def _status(tmp_path: Path, body: str) -> tuple[str, str]:
    code, data = _run(tmp_path, body)
    # The runner can read whatever a probe writes, and the exit status agrees.
    read = outcome.read(tmp_path / "result.json", level="imports", rules="lazy", device="emulated")
    assert code == outcome.EXIT_STATUS[read.status]
    assert data["status"] == read.status
    return read.status, read.reason


def test_checks_that_hold_pass_with_their_number(tmp_path: Path) -> None:
    assert _status(tmp_path, "probe.check(True, 'a')\nprobe.check(True, 'b')") == ("passed", "2 comparisons")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "nothing was checked"),
        ("probe.check(True, 'a')\nprobe.check(False, 'slot 3')", "imports: slot 3"),
        ("probe.check(True, 'a')\nraise KeyError('x')", "KeyError: 'x'"),
        ("with probe.section('a'), probe.section('b'):\n    probe.fail('c')", "imports / a / b: c"),
        ("probe.fail('first')\nraise _probe.Skip('no device')", "imports: first"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import cupy", "No module named 'cupy'"),
    ],
)
def test_what_fails_fails_with_its_reason(tmp_path: Path, body: str, reason: str) -> None:
    status, said = _status(tmp_path, body)
    assert status == "failed"
    assert reason in said


def test_a_failed_section_does_not_end_the_others(tmp_path: Path) -> None:
    body = "for name in 'ab':\n    with probe.section(name):\n        raise ValueError(name)"
    _, data = _run(tmp_path, body)
    assert [entry["check"] for entry in data["failures"]] == ["imports / a", "imports / b"]


def test_a_probe_that_fails_everywhere_stops_early(tmp_path: Path) -> None:
    _, data = _run(tmp_path, "for number in range(1000):\n    with probe.section(str(number)):\n        1 / 0")
    assert data["status"] == "failed"
    assert len(data["failures"]) == 25


def test_a_skip_is_a_skip_where_nothing_has_failed(tmp_path: Path) -> None:
    assert _status(tmp_path, "probe.check(True, 'a')\nraise _probe.Skip('no device')") == ("skipped", "no device")


def test_a_failure_of_an_unpatched_lmcache_says_what_to_do(tmp_path: Path) -> None:
    _, said = _status(tmp_path, "probe.fail('no device')")
    assert "is not patched for HPU (it has no lmcache.gaudi): run `gaudi-patch apply --python " in said


def test_a_dependency_that_lmcache_declares_is_a_skip_by_name(tmp_path: Path) -> None:
    body = (
        "declared = ['PyYAML>=5', 'cupy-cuda13x', 'absent-one', 'no-such.Module[x]; python_version > \"3\"']\n"
        "declared += ['setuptools_scm>=8', 'pytest']\n"
        "import importlib.metadata\n"
        "importlib.metadata.requires = lambda name: declared\n"
        "try:\n"
        "    import no_such_module\n"
        "except ImportError as error:\n"
        "    raise RuntimeError('LMCache hides it') from error"
    )
    status, reason = _status(tmp_path, body)
    assert status == "skipped"
    assert reason.startswith("LMCache's dependency 'no_such_module' is not installed; also missing: absent-one; ")
    assert "-m pip install -r <(gaudi-patch requirements" in reason


def test_an_exception_is_told_with_its_place_and_without_a_c_stack(tmp_path: Path) -> None:
    _, said = _status(tmp_path, "raise RuntimeError('index out of range\\nException raised from operator()')")
    assert "RuntimeError: index out of range (" in said
    assert "operator()" not in said
    assert "probe.py:5)" in said


def test_a_failed_probe_does_not_wait_for_threads_that_its_failure_left(tmp_path: Path) -> None:
    """Before, an engine that did not start kept the process alive until the level's time was up."""
    body = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nprobe.fail('slot 3')"
    assert _status(tmp_path, body)[0] == "failed"


def test_what_ends_a_level_is_its_last_failure(tmp_path: Path) -> None:
    body = "probe.end('no pinned memory')\nprobe.fail('and so on')"
    _, data = _run(tmp_path, body)
    assert [entry["message"] for entry in data["failures"]] == ["no pinned memory"]


@pytest.mark.parametrize("emulated", [False, True])
def test_a_pass_on_another_device_than_the_one_asked_for_is_a_failure(tmp_path: Path, emulated: bool) -> None:
    body = (
        "import sys, types\n"
        "module = sys.modules['habana_frameworks'] = types.ModuleType('habana_frameworks')\n"
        f"module.IS_EMULATED = {emulated}\n"
        "probe.check(True, 'a')"
    )
    status, reason = _status(tmp_path, body)
    assert status == ("passed" if emulated else "failed")
    assert emulated or "habana_frameworks is real" in reason
