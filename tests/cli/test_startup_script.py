"""The script that measures start-up runs; no time is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gaudi_patch.cli import COMMANDS
from tests.scripts import startup
from tests.support.cli import environment


def test_it_prints_a_figure_for_every_command() -> None:
    done = subprocess.run(
        [sys.executable, startup.__file__, "1"], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    for name in (startup.EMPTY, "gaudi-patch check", *(f"gaudi-patch {verb} --help" for verb in COMMANDS)):
        assert f"\n{name} " in done.stdout


def test_the_programs_do_what_their_names_say(tmp_path: Path) -> None:
    found, missing = startup.programs(tmp_path)
    codes = {program.name: _code(program) for program in found}
    # The stand-in has none of the release's files.
    assert codes.pop("gaudi-patch check") == 1
    assert set(codes.values()) == {0}
    assert set(missing) <= {"git", "patch-package"}


def _code(program: startup.Program) -> int:
    variables = {**os.environ, **program.variables}
    done = subprocess.run(program.command, cwd=program.folder, env=variables, capture_output=True, check=False)
    return done.returncode
