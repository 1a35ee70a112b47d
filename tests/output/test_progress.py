"""Progress is shown live on a terminal and as lines in a log, and never with JSON."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaudi_patch.output import progress
from tests.cli.command_line import coloured
from tests.support.cli import environment

STORY = """
import time
from gaudi_patch.output import progress
progress.start(quiet={quiet})
with progress.step("smoke checks", 2, look=lambda: "12 MiB") as step:
    step.begin("imports: running")
    step.tell("imports: case one")
    time.sleep(1.2)
    step.end("imports: passed")
    with progress.step("an inner one"):
        pass
    step.end("kernels: passed")
"""


def on_a_terminal(source: str, **env: str) -> str:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=follower, stdout=follower, stderr=follower,
        env=environment(TERM="xterm-256color", **env),
    )  # fmt: skip
    os.close(follower)
    text = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        text += data
    os.close(leader)
    assert process.wait(60) == 0
    return text.decode()


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    progress.start(quiet=False)
    yield
    progress.start(quiet=False)


def test_a_log_has_a_line_for_each_beginning_and_end_with_elapsed_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORY.format(quiet=False)],
        capture_output=True, text=True, env=environment(), check=True,
    )  # fmt: skip
    assert done.stdout == ""
    lines = [re.sub(r"\d+\.\d s", "N s", line) for line in done.stderr.splitlines()]
    assert lines == [
        "smoke checks ...",
        "  imports: running ...",
        "  imports: passed (1 of 2)",
        "  an inner one ...",
        "  done in N s",
        "  kernels: passed (2 of 2)",
        "  done in N s, 12 MiB",
    ]


def test_a_terminal_shows_the_part_at_work_and_keeps_what_has_ended() -> None:
    text = on_a_terminal(STORY.format(quiet=False))
    assert "imports: case one: 12 MiB" in text
    assert "imports: passed (1 of 2)" in text
    assert re.search(r"smoke checks: done in \d", text)
    assert text.count("\x1b[?25h") >= text.count("\x1b[?25l") > 0  # the cursor is shown again


def test_what_is_at_work_stands_below_where_a_line_has_no_room_for_both() -> None:
    what, detail = "smoke checks: imports, kernels, engine (3 of 6)", "engine (lazy): a store that fails costs a hit"
    assert progress._fitting(what, detail, 200) == f"{what}: {detail}"
    assert progress._fitting(what, detail, 66) == f"{what}\n{detail}"
    lines = progress._fitting(what, detail, 30).split("\n")
    assert lines == ["smoke checks: imports,", "kernels, engine (3 of 6)", f"{detail[:29]}…"]
    assert progress._fitting(what, "", 66) == what


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"CI": "1"}, {"GITHUB_ACTIONS": "true"}])
def test_a_terminal_that_is_a_log_gets_lines(env: dict[str, str]) -> None:
    text = on_a_terminal(STORY.format(quiet=False).replace("import time", f"import os, time\nos.environ |= {env!r}", 1))
    assert "\x1b[" not in text
    assert "smoke checks ..." in text


@pytest.mark.parametrize(("before", "env"), [("streams.choose(streams.Color.NEVER)", {}), ("", {"NO_COLOR": "1"})])
def test_a_spinner_has_no_colour_where_none_is_wanted(before: str, env: dict[str, str]) -> None:
    story = f"from gaudi_patch.output import streams\n{before}\n{STORY.format(quiet=False)}"
    text = on_a_terminal(story, **env)
    assert "imports: case one" in text
    assert not coloured(text)
    assert coloured(on_a_terminal(STORY.format(quiet=False)))


def test_nothing_is_said_beside_json() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORY.format(quiet=True)], capture_output=True, text=True, env=environment(), check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_long_step_says_in_a_log_that_it_is_still_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_BETWEEN_LINES", 0.05)
    monkeypatch.setattr(progress, "_BETWEEN_LOOKS", 0.02)
    with progress.step("installing", look=lambda: "7 MiB"):
        time.sleep(0.3)
    assert "  still running after 0 s: 7 MiB" in capsys.readouterr().err


def test_the_seconds_of_a_long_part_are_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A level that began a second ago has not been running for the minute that its predecessors took."""
    now = [100.0]
    monkeypatch.setattr(progress, "_BETWEEN_LOOKS", 60.0)  # this test ticks by itself
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.step("smoke checks", 2) as step:
        assert isinstance(step, progress._Logged)

        def after(seconds: float) -> list[str]:
            capsys.readouterr()
            now[0] += seconds
            step._tick()
            return capsys.readouterr().err.splitlines()

        step.begin("imports: running")
        assert after(31) == ["  still running after 31 s: imports: running"]
        step.end("imports: passed")
        assert after(31) == ["  still running after 62 s"], "between two parts only the whole is running"
        step.begin("engine: running")
        step.tell("engine: a case")
        assert after(29) == [], "the line of the beginning is younger than half a minute"
        assert after(2) == ["  still running after 31 s, 93 s in all: engine: a case"]
        with progress.step("an inner one", look=lambda: "3 MiB"):
            assert after(30) == ["  still running after 30 s, 123 s in all: an inner one: 3 MiB"]
        assert after(30) == ["  still running after 91 s, 153 s in all: engine: a case"]


def test_measuring_takes_little_of_the_time_that_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a large tree takes long to add up, and the step would wait for the same disk and processor."""
    monkeypatch.setattr(progress, "_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "_BETWEEN_LOOKS", 0.01)
    looks = []

    def look() -> str:
        looks.append(time.monotonic())
        time.sleep(0.05)
        return "7 MiB"

    with progress.step("installing", look=look):
        time.sleep(0.9)
    assert 1 <= len(looks) <= 4, "one reading in eleven times its own duration, and one at the end"


def test_a_step_that_fails_tells_no_end_and_stops_its_display(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress.step("compiling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert capsys.readouterr().err == "compiling ...\n"
    with progress.step("next"):
        pass
    assert "next ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "left", "said"),
    [
        ("check", "", "interrupted; nothing was changed"),
        ("demo", "the throwaway environment was removed", "interrupted; the throwaway environment was removed"),
        ("wheel", "", "interrupted"),
    ],
)
def test_an_interrupt_says_what_is_left(command: str, left: str, said: str) -> None:
    from gaudi_patch.cli.run import guarded

    def interrupted() -> object:
        progress.leaves(left)
        raise KeyboardInterrupt

    result = guarded(command, interrupted, False)  # type: ignore[arg-type]
    assert (int(result.exit), result.errors[0].message) == (130, said)


def test_no_thread_but_the_main_one_takes_a_signal() -> None:
    """The system may deliver a signal to any thread that does not block it; the main thread would then keep waiting."""
    with progress.step("at work"):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "progress"]
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        mine = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk:")).split()[1], 16)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert blocked >> (number - 1) & 1, number
        assert number not in mine, "the main thread takes them as before"
