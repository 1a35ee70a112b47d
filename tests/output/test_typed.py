"""A command printed to be typed works in the user's shell, wherever gaudi-patch was started from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.plain import error_lines
from gaudi_patch.output.typed import as_typed
from tests.support.cli import environment

NEXT = "next: gaudi-patch apply --python /opt/venv/bin/python"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an environment's script as pip makes it, started by its path and not on PATH; return it."""
    script = tmp_path / "my tools" / "gaudi-patch"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom gaudi_patch.cli import main\nsys.argv[0] = __file__\nmain()\n"
    )
    script.chmod(0o755)
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "argv", [str(script), "check"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return script


def test_a_program_started_by_its_path_is_named_by_it(program: Path) -> None:
    named = f"'{program}'"
    assert as_typed(NEXT) == NEXT.replace("gaudi-patch", named)
    assert as_typed("see `gaudi-patch list`; maintainers: gaudi-patch dev lint") == (
        f"see `{named} list`; maintainers: {named} dev lint"
    )
    assert (
        as_typed("pip install -r <(gaudi-patch requirements 0.5.6)") == f"pip install -r <({named} requirements 0.5.6)"
    )


def test_every_line_of_an_error_names_the_program(program: Path) -> None:
    error = GaudiPatchError(
        Exit.REFUSED, "x", "`gaudi-patch list` names none", "gaudi-patch list", details=["source: `gaudi-patch show 1`"]
    )
    assert error_lines(error) == [
        f"error: `'{program}' list` names none",
        f"  source: `'{program}' show 1`",
        f"  next: '{program}' list",
    ]


@pytest.mark.parametrize(
    "text", ["gaudi-patch has another one now", "by gaudi-patch itself", "wheels of gaudi-patch 0.2"]
)
def test_a_sentence_about_the_program_keeps_its_name(text: str, program: Path) -> None:
    assert as_typed(text) == text


def test_a_program_that_path_leads_to_is_called_by_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/nonexistent:{program.parent}")
    assert as_typed(NEXT) == NEXT


def test_another_program_of_the_name_is_not_called(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "bin" / "gaudi-patch"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert f"'{program}' apply" in as_typed(NEXT)


def test_a_module_that_is_run_is_called_by_the_programs_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/gaudi_patch/__main__.py"])
    assert as_typed(NEXT) == NEXT


def test_the_hint_of_an_error_can_be_typed_where_nothing_is_on_path(program: Path) -> None:
    env = environment(PATH="/usr/bin:/bin", PYTHONPATH=str(Path(__file__).resolve().parents[2]))
    done = subprocess.run([str(program), "aply"], capture_output=True, text=True, env=env, check=False)
    command = done.stderr.partition("next: `")[2].partition("`")[0]
    assert subprocess.run(["sh", "-c", command], capture_output=True, env=env, check=False).returncode == 0, done.stderr
