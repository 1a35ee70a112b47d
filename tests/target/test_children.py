"""Programs started by gaudi-patch end when it ends, however it ends; its /tmp files go too, except after SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaudi_patch.smoke import probes
from tests.support.fake_interpreter import SKIP_TO_SCRIPT, program

PROBES = next(iter(probes.__path__))
#: All signals that end a process which does not handle them.
ENDINGS = (signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGUSR1)
#: Write its own pid, a child's pid and the socket directory into the directory PIDS, then hang.
HANG = "echo $GAUDI_PATCH_SOCKETS >$PIDS/sockets; sleep 600 & echo $$ >$PIDS/parent; echo $! >$PIDS/child; wait"

Start = Callable[..., "subprocess.Popen[bytes]"]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture
def pids(tmp_path: Path) -> Callable[[], list[int]]:
    """Return a reader of the pids that HANG wrote, which waits for both."""

    def read() -> list[int]:
        files = [tmp_path / "pids" / name for name in ("parent", "child")]
        assert eventually(lambda: all(file.exists() and file.read_text().strip() for file in files), 60)
        time.sleep(0.3)  # the kernel learns whom to kill a moment after the program starts
        return [int(file.read_text()) for file in files]

    (tmp_path / "pids").mkdir()
    return read


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*words)``: run Python with these arguments, with temporary files in ``tmp``; it is killed at the end."""
    running = []

    def make(*words: str | Path) -> subprocess.Popen[bytes]:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        environ = {**os.environ, "PIDS": str(tmp_path / "pids"), "TMPDIR": str(tmp_path / "tmp")}
        with (tmp_path / "output").open("wb") as output:  # no pipe: leftover processes would hold it open
            process = subprocess.Popen(
                [sys.executable, *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
            )
        running.append(process)
        return process

    yield make
    for process in running:
        process.kill()
        process.wait()


def gone(numbers: list[int]) -> bool:
    try:
        return eventually(lambda: not any(map(alive, numbers)), 5)
    finally:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("number", ENDINGS, ids=lambda number: number.name)
def test_the_whole_group_of_a_program_dies_with_the_process_that_runs_it(
    start: Start, pids: Callable[[], list[int]], number: signal.Signals
) -> None:
    code = (
        "import os; from pathlib import Path; from gaudi_patch.target import process\n"
        f"process.run(['sh', '-c', {HANG!r}], timeout=600, environ=os.environ, cwd=Path('/'))"
    )
    parent = start("-c", code)
    children = pids()
    assert all(map(alive, children))
    parent.send_signal(number)
    parent.wait(20)
    assert gone(children)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_what_a_probe_starts_dies_with_the_probe(
    start: Start, pids: Callable[[], list[int]], number: signal.Signals
) -> None:
    code = f"import sys; sys.path.append({PROBES!r}); import _children\n_children.start(['sh', '-c', {HANG!r}]).wait()"
    parent = start("-c", code)
    server, _ = children = pids()
    parent.send_signal(number)
    parent.wait(20)
    assert eventually(lambda: not alive(server), 5)
    gone(children)


def test_a_program_in_a_stopped_group_dies_too(start: Start, pids: Callable[[], list[int]]) -> None:
    code = (
        "import os; from pathlib import Path; from gaudi_patch.target import process\n"
        f"process.run(['sh', '-c', {HANG!r}], timeout=600, environ=os.environ, cwd=Path('/'))"
    )
    parent = start("-c", code)
    children = pids()
    os.killpg(children[0], signal.SIGSTOP)
    parent.kill()
    parent.wait(20)
    assert gone(children)


def test_the_end_of_a_thread_that_started_a_program_is_not_its_end(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG would end the program with the thread."""
    code = (
        "import threading, time, os; from gaudi_patch.target.process import Child\n"
        "made = []\n"
        "thread = threading.Thread(target=lambda: made.append(Child(['sleep', '600'], os.environ, '/')))\n"
        "thread.start(); thread.join(); time.sleep(0.5)\n"
        "print(made[0]._has_ended()); made[0].kill()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return an interpreter that has a tiny LMCache and hangs on all other questions."""
    site = tmp_path / "site"
    (site / "lmcache").mkdir(parents=True)
    (site / "lmcache/__init__.py").write_text("")
    info = site / "lmcache-0.5.6.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: lmcache\nVersion: 0.5.6\n")
    (info / "RECORD").write_text("")
    facts = {
        "executable": str(tmp_path / "bin/python"),
        "prefix": str(tmp_path),
        "version": [3, 12],
        "cache_tag": "cpython-312",
        "pycache_prefix": "",
        "path": [str(site)],
        "finder_folder": "",
        "frozen": False,
    }
    answer = json.dumps({"answer": facts})
    return program(
        tmp_path / "bin/python",
        f"#!/bin/sh\n{SKIP_TO_SCRIPT}\ncase $4 in\n"
        f"*/sys_path.py) printf '%s\\n' '{answer}' >/dev/fd/$2; exit;;\nesac\n{HANG}\n",
    )


COMMANDS = {
    "smoke": ("smoke",),
    "doctor": ("doctor",),
    "doctor of a directory": ("doctor", "--vllm-args", "serve m"),
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_ended_leaves_no_process_and_no_temporary_file(
    start: Start, pids: Callable[[], list[int]], python: Path, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    parent = start("-m", "gaudi_patch", *COMMANDS[command], "--python", str(python))
    children = pids()
    parent.send_signal(number)
    parent.wait(30)
    output = (tmp_path / "output").read_bytes()
    assert gone(children), output
    if number is signal.SIGKILL:
        return
    assert parent.returncode == (130 if number is signal.SIGINT else 143), output
    assert b"Traceback" not in output
    assert list((tmp_path / "tmp").iterdir()) == []
    sockets = (tmp_path / "pids/sockets").read_text().strip()
    assert not (sockets and Path(sockets).exists())
    assert bool(sockets) == (command == "smoke")


def test_a_signal_that_was_ignored_stays_ignored(
    start: Start, pids: Callable[[], list[int]], python: Path, tmp_path: Path
) -> None:
    """As with `nohup`."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        f"os.execv(sys.executable, [sys.executable, '-m', 'gaudi_patch', 'doctor', '--python', {str(python)!r}])"
    )
    parent = start("-c", code)
    children = pids()
    parent.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert parent.poll() is None and all(map(alive, children))
    parent.terminate()
    parent.wait(30)
    assert parent.returncode == 143
    assert gone(children)


def test_more_signals_do_not_disturb_the_way_out(
    start: Start, pids: Callable[[], list[int]], python: Path, tmp_path: Path
) -> None:
    parent = start("-m", "gaudi_patch", "smoke", "--python", str(python))
    children = pids()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        parent.send_signal(number)
    parent.wait(30)
    output = (tmp_path / "output").read_bytes()
    assert parent.returncode == 143, output
    assert gone(children)
    assert list((tmp_path / "tmp").iterdir()) == []
