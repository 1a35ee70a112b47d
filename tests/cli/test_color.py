"""Colour on terminals and in pipes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gaudi_patch import cli
from tests.cli.command_line import arguments, coloured
from tests.support.cli import command, environment, gaudi_patch
from tests.support.tiny import Tiny

#: Options and variables that turn colours off.
NOT_WANTED: list[tuple[list[str], dict[str, str]]] = [
    (["--color", "never"], {}),
    (["--color=never"], {"FORCE_COLOR": "1"}),
    ([], {"NO_COLOR": "1"}),
    ([], {"NO_COLOR": "1", "FORCE_COLOR": "1"}),
    ([], {"TERM": "dumb"}),
]


def on_terminal(target: Tiny, verb: str, **env: str) -> str:
    """Return the output of a command on a terminal."""
    return shown(arguments(target, verb), **env)


def shown(words: list[str], **env: str) -> str:
    """Return the output of a command line on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*words), stdin=follower, stdout=follower, stderr=follower,
        env=environment(**{"TERM": "xterm-256color", **env}),
    )  # fmt: skip
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    process.wait(60)
    return b"".join(chunks).decode()


def test_a_terminal_gets_colour_unless_it_is_not_wanted(target: Tiny) -> None:
    assert coloured(on_terminal(target, "check"))
    assert not coloured(on_terminal(target, "check", NO_COLOR="1"))
    assert not coloured(on_terminal(target, "check", NO_COLOR="1", FORCE_COLOR="1"))
    assert coloured(on_terminal(target, "check", NO_COLOR=""))
    assert not coloured(on_terminal(target, "check", TERM="dumb"))
    assert "[bold]" in on_terminal(target, "check", COLUMNS="400")


def test_a_pipe_gets_colour_only_when_forced(target: Tiny) -> None:
    run = gaudi_patch
    assert "\x1b[" not in run(*arguments(target, "check")).out
    assert "\x1b[" in run(*arguments(target, "check"), env={"FORCE_COLOR": "1"}).out
    assert "\x1b[" not in run(*arguments(target, "check"), env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).out
    assert "\x1b[" in run(*arguments(target, "check", "--color", "always")).out
    assert "\x1b[" not in run(*arguments(target, "check", "--color", "never"), env={"FORCE_COLOR": "1"}).out
    assert "\x1b[" not in run(*arguments(target, "check", "--json"), env={"FORCE_COLOR": "1"}).out


@pytest.mark.parametrize(("options", "env"), NOT_WANTED)
def test_progress_and_errors_have_no_colour_either_where_none_is_wanted(
    options: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    """`wheel` of a missing file reports progress and ends with an error; the others do not parse."""
    broken = tmp_path / "lmcache-0.5.6-py3-none-any.whl"
    broken.write_bytes(b"no wheel")
    for words in (
        ["wheel", str(broken), "--out", str(tmp_path / "out")],
        ["apply", "--dryrun"],
        ["smoke", "krnels"],
    ):
        text = shown([*words, *options], **env)
        assert "error:" in text, words
        assert not coloured(text), words
        assert coloured(shown(words)), words


@pytest.mark.parametrize("words", [["apply", "--dryrun"], ["smoke", "krnels"]])
def test_errors_in_a_pipe_have_colour_only_when_forced(words: list[str]) -> None:
    assert coloured(gaudi_patch(*words, env={"FORCE_COLOR": "1"}).err)
    assert coloured(gaudi_patch(*words, "--color", "always").err)
    assert not coloured(gaudi_patch(*words).err)
    assert not coloured(gaudi_patch(*words, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).err)


def test_what_stands_behind_two_dashes_is_no_option() -> None:
    assert coloured(gaudi_patch("smoke", "krnels", "--", "--color", "never", env={"FORCE_COLOR": "1"}).err)


def test_every_command_takes_color(tmp_path: Path) -> None:
    """Including the maintainers' commands: with colours turned off, none appear on a terminal."""
    for words in (["dev", "edit", "0.0.1"], ["dev", "refresh", str(tmp_path)], ["dev", "port", "0.5.5"]):
        for options, wanted in ((["--color", "never"], False), (["--color", "always"], True)):
            text = shown([*words, *options])
            assert "error:" in text, words
            assert "no such option" not in text.lower(), words
            assert coloured(text) == wanted, words
    taken = dict(commands(get_command(cli.app)))
    assert {"apply", "dev lint", "emulator build"} <= set(taken)
    assert [name for name, options in taken.items() if "--color" not in options] == []


def commands(command: Any, *names: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each command with its options; a group loads its commands on demand."""
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), *names, name)
    else:
        yield " ".join(names), {option for parameter in command.params for option in parameter.opts}


def test_an_error_on_a_terminal_breaks_between_words(target: Tiny) -> None:
    for width in ("40", "80"):
        text = re.sub(r"\x1b\[[0-9;]*m", "", shown(["check", "--path", "/nonexistent"], COLUMNS=width))
        piped = gaudi_patch("check", "--path", "/nonexistent").err
        assert text.split() == piped.split()
        assert all(len(line) <= int(width) for line in text.splitlines())
