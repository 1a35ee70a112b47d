"""The help as a manual: fits 80 columns, has examples, and every example parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gaudi_patch import cli
from gaudi_patch.cli.manual import Example, split
from tests.support.cli import gaudi_patch

ROOT: Any = typer.main.get_command(cli.app)


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all commands and groups."""
    yield prefix, group
    for name in group.list_commands(None):
        one = group.get_command(None, name)
        if hasattr(one, "list_commands"):
            yield from commands(one, (*prefix, name))
        else:
            yield (*prefix, name), one


EVERYTHING = dict(commands(ROOT))
VERBS = {names: one for names, one in EVERYTHING.items() if not hasattr(one, "list_commands")}


def help_of(names: tuple[str, ...]) -> str:
    done = CliRunner().invoke(cli.app, [*names, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("names", EVERYTHING, ids=lambda names: " ".join(names) or "gaudi-patch")
def test_no_line_of_the_help_is_wider_than_80_columns(names: tuple[str, ...]) -> None:
    assert [line for line in help_of(names).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("names", VERBS, ids=" ".join)
def test_every_verb_has_examples_and_they_are_its_own(names: tuple[str, ...]) -> None:
    examples = VERBS[names].examples
    assert examples
    text = help_of(names).split("\nExamples:\n")[1]
    for one in examples:
        assert any(line.startswith(f"gaudi-patch {' '.join(names)}") for line in one.lines), one
        for line in one.lines:
            assert f"  {line}\n" in text, "a line that is wrapped cannot be copied"


@pytest.mark.parametrize("names", VERBS, ids=" ".join)
def test_every_example_parses(names: tuple[str, ...]) -> None:
    """The options and arguments of each line belong to the command; nothing is run."""
    found = 0
    for one in VERBS[names].examples:
        for line in re.sub(r"\\\n\s*", " ", "\n".join(one.lines)).splitlines():
            words = shlex.split(line, comments=True)
            for operator in ("|", ">", "&&"):
                words = words[: words.index(operator)] if operator in words else words
            if words[:1] == ["gaudi-patch"]:
                assert words[1 : 1 + len(names)] == list(names)
                VERBS[names].make_context(" ".join(names), words[1 + len(names) :])
                found += 1
    assert found


@pytest.mark.parametrize("names", [names for names in EVERYTHING if names not in VERBS])
def test_no_summary_in_a_list_of_verbs_is_cut(names: tuple[str, ...]) -> None:
    assert "..." not in help_of(names).split("\nCommands:")[1]


def test_a_docstring_is_split_into_what_it_says_and_its_examples() -> None:
    text = "Do it.\n\nIt does.\n\nExample:\n\n    a\n      b\n\nExample, in a\nbuild:\n    c\n"
    assert split(text) == ("Do it.\n\nIt does.", [Example("", ("a", "  b")), Example("in a build", ("c",))])
    assert split("Do it.") == ("Do it.", [])


def test_an_example_that_does_not_parse_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        VERBS[("check",)].make_context("check", ["--agianst", "x"])


def test_a_usage_error_is_plain_text_and_names_the_help() -> None:
    done = gaudi_patch("check", "--agianst", "x", env={"FORCE_COLOR": "1", "COLUMNS": "80"})
    assert done.code == 2
    assert "\x1b" not in done.err.replace("\x1b[1;31merror:\x1b[0m", "").replace("\x1b[1mnext:\x1b[0m", "")
    assert "\x1b" not in gaudi_patch("check", "--agianst", "x").err
    assert "--against" in done.err, "the option that was meant"
    assert max(map(len, done.err.splitlines())) <= 120, "no wider than the help, colours included"
