"""Standard streams, and the environment of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from tests.cli.command_line import arguments, invoke, shell
from tests.support.cli import command, environment, gaudi_patch
from tests.support.tiny import Tiny


def test_data_goes_to_stdout_and_narration_to_stderr(target: Tiny) -> None:
    code, out, err = invoke(target, "check")
    assert code == 10
    assert err == ""
    assert "pristine" in out
    (target.site / "lmcache/engine.py").unlink()
    code, out, err = invoke(target, "check")
    assert "error:" in err
    assert "next:" in err
    assert "error:" not in out


def test_a_file_that_the_series_adds_is_told_from_one_that_is_there(target: Tiny) -> None:
    added, there = "lmcache/gaudi/__init__.py (missing, will be added)", "lmcache/engine.py"
    lines = invoke(target, "check", "-v")[1].splitlines()
    assert {f"pristine  {added}", f"pristine  {there}"} <= set(lines)
    invoke(target, "apply")
    assert added not in invoke(target, "check", "-v")[1]


def test_a_path_with_spaces_is_never_broken_and_brackets_are_kept(target: Tiny) -> None:
    done = gaudi_patch(*arguments(target, "check"), env={"COLUMNS": "20"})
    assert f"0.5.6 in {target.site}" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" >&-', 0),
        ('"$@" >&- 2>&-', 0),
        ('"$@" > /dev/full', 0),
        ('"$@" > /dev/full 2> /dev/full', 0),
        ('"$@" <&-', 0),
        ('set -o pipefail; "$@" | head -c 1 > /dev/null', 0),
        ('set -o pipefail; "$@" | true', 0),
    ],
)
def test_a_closed_or_full_stdout_changes_nothing(line: str, code: int, target: Tiny) -> None:
    """case_12: neither the transaction nor the exit code changes, and nothing is reported."""
    done = shell(line, target, "apply")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert target.check().exit is Exit.OK
    done = shell(line, target, "rollback")
    assert done.returncode == code
    assert target.check().exit is Exit.PENDING


def test_stdin_is_never_read(target: Tiny) -> None:
    assert shell('"$@" < /dev/full', target, "apply").returncode == 0


def test_it_works_in_an_empty_environment(target: Tiny, tmp_path: Path) -> None:
    """case_67: no HOME, PATH or locale, a TMPDIR that does not exist; temporary files are next to their targets."""
    for verb, code in (("check", 10), ("apply", 0), ("check", 0), ("rollback", 0)):
        done = subprocess.run(
            command(*arguments(target, verb)),
            env={"LC_ALL": "C", "TMPDIR": str(tmp_path / "nowhere"), "PYTHONSAFEPATH": "1"},
            cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr


def test_names_that_are_not_ascii_survive_a_c_locale(target: Tiny) -> None:
    """case_24"""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = gaudi_patch(*arguments(target, "check"), env=env)
    assert done.code == 10, done
    assert "Traceback" not in done.err


def test_a_module_in_the_current_folder_is_not_run(target: Tiny, tmp_path: Path) -> None:
    """case_68: the console script does not look for modules in the current directory."""
    script = Path(sys.executable).with_name("gaudi-patch")
    if not script.exists():
        pytest.skip("gaudi-patch is not installed here, there is no console script")
    for name in ("unidiff", "typer", "packaging", "json", "lmcache", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)\n")
    done = subprocess.run(
        [script, *arguments(target, "apply")], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_check_in_a_pipe_imports_nothing_heavy(target: Tiny) -> None:
    """A plain check finishes before any heavy library is loaded; so does an apply with nothing to do."""
    code = (
        "import sys\n"
        "from gaudi_patch import cli\n"
        f"sys.argv = ['gaudi-patch', *{arguments(target, 'check')!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as error:\n    status = error.code\n"
        "heavy = {'rich', 'git', 'pydantic', 'torch', 'lmcache', 'unidiff'} & set(sys.modules)\n"
        "print(status, *sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.stderr == "10\n"
