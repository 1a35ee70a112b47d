"""Colour on terminals and in pipes."""

from __future__ import annotations

import os
import pty
import subprocess

from tests.cli.command_line import arguments, coloured
from tests.support.cli import command, environment, gaudi_patch
from tests.support.tiny import Tiny


def on_terminal(target: Tiny, verb: str, **env: str) -> str:
    """Return what a command prints on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*arguments(target, verb)), stdin=follower, stdout=follower, stderr=follower,
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
