"""Help texts, and the imports that they need."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gaudi_patch import cli
from tests.cli.command_line import arguments
from tests.support.cli import environment, gaudi_patch, too_wide
from tests.support.tiny import Tiny


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        one = group.get_command(None, name)
        if hasattr(one, "list_commands"):
            yield from commands(one, (*prefix, name))
        else:
            yield (*prefix, name), one


ALL_COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("names", ALL_COMMANDS, ids=" ".join)
def test_help_reads_like_a_manual_with_an_example(names: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, [*names, "--help"])
    assert done.exit_code == 0
    assert re.search(r"^ *Example", done.stdout, re.MULTILINE), done.stdout
    assert f"gaudi-patch {' '.join(names)}" in done.stdout.split("Example", 1)[1]
    for option in ALL_COMMANDS[names].params:
        if option.param_type_name == "option":
            assert option.help, f"{option.name} has no help"


@pytest.mark.parametrize(
    "line",
    [
        ("list",),
        ("guide",),
        ("recipe",),
        ("doctor", "-v"),
        ("list", "0.3.7"),
        ("show", "0.3.7"),
        ("show", "0.5.6"),
        *((*names, "--help") for names in ALL_COMMANDS),
    ],
    ids=" ".join,
)
def test_in_a_pipe_it_fits_80_columns(line: tuple[str, ...]) -> None:
    done = gaudi_patch(*line, env={"COLUMNS": ""})
    # The content of a patch is shown unchanged.
    ours = [text for text in done.out.splitlines() if not text.startswith(("+", "-", " ", "@@", "diff ", "index "))]
    assert len(ours) > 3
    assert too_wide("\n".join(ours if line[0] == "show" else done.out.splitlines())) == []


def test_the_verbs_are_those_of_the_manual() -> None:
    names = {" ".join(one) for one in ALL_COMMANDS}
    assert {"check", "apply", "rollback", "list", "show", "demo", "dev lint"} <= names


def test_only_the_verb_that_is_invoked_is_imported(target: Tiny) -> None:
    """Start-up time does not grow with the number of commands."""
    code = (
        "import sys\n"
        "from gaudi_patch import cli\n"
        f"sys.argv = ['gaudi-patch', *{arguments(target, 'check')!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "names = {f'gaudi_patch.commands.{name}' for name in cli.COMMANDS}\n"
        "print(*sorted(names & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.stderr == "gaudi_patch.commands.check\n"


def test_without_arguments_the_help_is_shown() -> None:
    done = CliRunner().invoke(cli.app, [])
    assert "Exit codes" in done.stdout + done.stderr


def test_the_version_names_what_a_bug_report_needs() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert done.exit_code == 0
    for name in ("gaudi-patch ", "python ", "typer ", "unidiff "):
        assert f"\n{name}" in f"\n{done.stdout}"
