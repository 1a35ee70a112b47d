"""The script that measures start-up runs, on an installation like a user's; no time is asserted."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from gaudi_patch.cli import COMMANDS
from tests.scripts import startup
from tests.scripts.beside import clean
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable


class Found:
    """The programs that the script compares, installed once."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        try:
            self.programs, self.missing = startup.programs(scratch)
        except subprocess.CalledProcessError as error:
            unavailable(EnvironmentUnavailableError(f"gaudi-patch cannot be installed: {error}"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # as some machines have it: it must not reach the programs
        return Found(tmp_path_factory.mktemp("startup"))


def test_every_command_has_a_figure(found: Found) -> None:
    timings = startup.measure(found.programs, 1)
    names = {timing.name for timing in timings if timing.seconds > 0}
    assert names >= {startup.EMPTY, "gaudi-patch check", *(f"gaudi-patch {verb} --help" for verb in COMMANDS)}
    assert {timing.name for timing in timings if timing.budget} == set(startup.BUDGETS)


def test_the_programs_do_what_their_names_say(found: Found) -> None:
    codes = {program.name: _code(program) for program in found.programs}
    # The stand-in has none of the release's files.
    assert codes.pop("gaudi-patch check") == 1
    assert set(codes.values()) == {0}
    assert set(found.missing) <= {"git", "patch-package"}


def test_gaudi_patch_is_not_compiled_again_by_every_run_when_typer_is_not(found: Found) -> None:
    site = next((found.scratch / "tools" / "lib").glob("python*")) / "site-packages"
    for package in ("gaudi_patch", "typer"):
        sources = list((site / package).glob("*.py"))
        assert sources
        assert {path.stem for path in sources} <= {name.name.split(".")[0] for name in (site / package).rglob("*.pyc")}


@pytest.mark.parametrize("arguments", [["list"], ["--version"], ["check"]])
def test_a_run_that_compares_hashes_alone_imports_no_diff(found: Found, arguments: Sequence[str]) -> None:
    (check,) = (program for program in found.programs if program.name == "gaudi-patch check")
    words = [*check.command[:1], *(check.command[1:] if arguments == ["check"] else arguments)]
    python = str(Path(words[0]).with_name("python"))
    done = subprocess.run(
        [python, "-X", "importtime", *words], env=clean(), capture_output=True, text=True, check=False
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "gaudi_patch.series.manifest" in imported
    assert not imported & {"gaudi_patch.series.diff", "gaudi_patch.series.hunks", "git", "rich", "unidiff"}


def _code(program: startup.Program) -> int:
    variables = clean() | dict(program.variables)
    done = subprocess.run(program.command, cwd=program.folder, env=variables, capture_output=True, check=False)
    return done.returncode
