"""The pager: when it is used, which one, and that it changes no result."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gaudi_patch.output import pager
from tests.cli.command_line import coloured
from tests.support.cli import command, environment, gaudi_patch

SHOW = ("show", "0.5.6")


@pytest.fixture
def recorder(tmp_path: Path) -> tuple[str, Path]:
    """Return a pager that saves its input and prints a line of its own, and the path of the saved input."""
    script, kept = tmp_path / "a pager.py", tmp_path / "kept"
    script.write_text(
        f"import pathlib, sys\npathlib.Path({str(kept)!r}).write_bytes(sys.stdin.buffer.read())\nprint('PAGED')\n"
    )
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}", kept


def start(*arguments: str, **env: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start gaudi-patch on a terminal; return the process and the terminal's other end."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in environment().items() if "PAGER" not in name}
    process = subprocess.Popen(
        command(*arguments), stdin=follower, stdout=follower, stderr=follower,
        env={**clean, "TERM": "xterm-256color", **env},
    )  # fmt: skip
    os.close(follower)
    return process, leader


def finish(process: subprocess.Popen[bytes], leader: int) -> tuple[int, str]:
    """Return the exit code and all output on the terminal."""
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        chunks.append(chunk)
    os.close(leader)
    return process.wait(60), b"".join(chunks).decode()


def on_terminal(*arguments: str, **env: str) -> tuple[int, str]:
    return finish(*start(*arguments, **env))


@pytest.mark.parametrize("verb", [SHOW, ("list",), ("guide", "quick-start")])
def test_long_output_goes_through_the_pager_with_its_colours(verb: tuple[str, ...], recorder: tuple[str, Path]) -> None:
    program, kept = recorder
    code, text = on_terminal(*verb, GAUDI_PATCH_PAGER=program)
    assert (code, text.split()) == (0, ["PAGED"])
    if verb == SHOW:
        assert coloured(kept.read_text())
        assert "runtime: HPU runtime" in kept.read_text()


def test_no_color_is_for_the_pager_too(recorder: tuple[str, Path]) -> None:
    program, kept = recorder
    on_terminal(*SHOW, PAGER=program, NO_COLOR="1")
    assert not coloured(kept.read_text())


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        ((*SHOW, "--no-pager"), {}),
        ((*SHOW, "--json"), {}),
        ((*SHOW, "--output-format", "json"), {}),
        (SHOW, {"TERM": "dumb"}),
        (SHOW, {"GAUDI_PATCH_PAGER": "cat"}),
        (SHOW, {"GAUDI_PATCH_PAGER": ""}),
        (("--help",), {}),
    ],
)
def test_there_is_none_where_it_is_not_wanted(
    arguments: tuple[str, ...], env: dict[str, str], recorder: tuple[str, Path]
) -> None:
    program, kept = recorder
    code, text = on_terminal(*arguments, **{"PAGER": program, **env})
    assert code == 0
    assert len(text) > 300
    assert not kept.exists()


def test_there_is_none_in_a_pipe(recorder: tuple[str, Path]) -> None:
    program, kept = recorder
    done = gaudi_patch(*SHOW, env={"GAUDI_PATCH_PAGER": program, "FORCE_COLOR": "1", "TERM": "xterm"})
    assert done.code == 0
    assert not kept.exists()


def test_an_error_is_not_paged_and_keeps_its_exit_code(recorder: tuple[str, Path]) -> None:
    program, kept = recorder
    code, text = on_terminal("show", "9.9.9", PAGER=program)
    assert (code, kept.exists()) == (3, False)
    assert "no series for LMCache 9.9.9" in text


@pytest.mark.parametrize("program", ["true", "head -n 1", "false"])
def test_a_pager_that_quits_early_changes_no_exit_code(program: str) -> None:
    code, text = on_terminal(*SHOW, PAGER=program)
    assert code == 0
    assert "Traceback" not in text
    assert "Broken" not in text


@pytest.mark.parametrize("program", ["/no/such/pager --x", "'unbalanced"])
def test_a_pager_that_cannot_be_started_is_done_without(program: str) -> None:
    code, text = on_terminal(*SHOW, PAGER=program)
    assert code == 0
    assert "runtime: HPU runtime" in text


def test_an_interrupt_is_for_the_pager(tmp_path: Path) -> None:
    """Ctrl-C stops a search in less; gaudi-patch keeps waiting for less to end."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = tmp_path / "pager.sh"
    script.write_text(
        f"trap '' INT\ncat > {ready}.part\nmv {ready}.part {ready}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n"
    )
    process, leader = start(*SHOW, PAGER=f"sh {script}")
    for _ in range(600):
        if ready.exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    go.touch()
    assert finish(process, leader) == (0, "")


def test_which_pager_is_chosen() -> None:
    def chosen(**env: str) -> list[str]:
        return pager.command({"TERM": "xterm", **env})

    assert chosen() == ["less"]
    assert chosen(PAGER="most -s") == ["most", "-s"]
    assert chosen(PAGER="most", GAUDI_PATCH_PAGER="more") == ["more"]
    assert chosen(PAGER="most", GAUDI_PATCH_PAGER="") == []
    assert chosen(PAGER="cat") == []
    assert pager.command({}) == [], "no TERM: nobody is there to turn pages"


def test_a_reader_that_quits_early_changes_no_exit_code_with_colours_either() -> None:
    """`gaudi-patch show | head`: rich's own handling would exit with 1."""
    shell = f"{shlex.join(command(*SHOW, '--color', 'always'))} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
