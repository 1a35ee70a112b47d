"""Start-up is measured for every verb; no time is asserted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gaudi_patch.bench import startup
from gaudi_patch.bench.startup import Program
from gaudi_patch.cli import VERBS


def test_every_verb_is_measured_and_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    found, missing = startup.programs(tmp_path)
    names = [one.name for one in found]
    assert names[0] == startup.EMPTY
    assert {f"gaudi-patch {verb} --help" for verb in VERBS} <= set(names)
    assert missing == ["git", "patch-package"]
    assert set(startup.BUDGETS) <= set(names)


def test_the_programs_do_what_their_names_say(tmp_path: Path) -> None:
    found = {one.name: one for one in startup.programs(tmp_path)[0]}
    codes = {name: os.waitstatus_to_exitcode(_status(found[name])) for name in found}
    # The stand-in has none of the files that the release has.
    assert codes.pop("gaudi-patch check") == 1
    assert set(codes.values()) == {0}


def _status(program: Program) -> int:
    import subprocess

    done = subprocess.run(program.command, cwd=program.folder, capture_output=True, check=False)
    return done.returncode << 8


def test_figures_are_multiples_of_the_first_program(tmp_path: Path) -> None:
    quick = Program("quick", [sys.executable, "-S", "-c", "pass"], tmp_path)
    slow = Program("gaudi-patch check", [sys.executable, "-S", "-c", "import time; time.sleep(0.3)"], tmp_path)
    one, other = startup.measure([quick, slow], runs=2)
    assert one.times_empty == 1.0
    assert other.times_empty == other.seconds / one.seconds
    assert other.seconds >= 0.3
    assert (one.budget, other.budget) == (None, 1.5)
