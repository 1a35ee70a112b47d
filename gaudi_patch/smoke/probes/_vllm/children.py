"""Find what a case or server leaves running: new processes below this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of processes that a case leaves behind (Linux), so that they are found and ended."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Process:
    """A process; its start time distinguishes it from a later process with the same id."""

    pid: int
    started: int


class Newcomers:
    """The processes started below this one since the object was created.

    Earlier processes and their children belong to others: they are neither counted nor ended.
    """

    def __init__(self) -> None:
        self._before = frozenset(_running())

    def running(self) -> list[int]:
        """Return the ids of those running now."""
        parents = _running()
        by_pid = {process.pid: process for process in parents}
        found: list[int] = []
        for process in parents:
            current: _Process | None = process
            while current is not None and current not in self._before:
                parent = parents[current]
                if parent == os.getpid():
                    found.append(process.pid)
                    break
                current = by_pid.get(parent)
        return found

    def end(self, grace: float) -> list[str]:
        """Wait ``grace`` seconds for them to end, kill the rest, and return the command lines of the killed."""
        deadline = time.monotonic() + grace
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        commands = []
        for pid in left:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                os.kill(pid, signal.SIGKILL)
                commands.append(command.strip()[:200])
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # not adopted: another process will reap it
                os.waitpid(pid, 0)
        return commands


def _running() -> dict[_Process, int]:
    """Return all running processes of the machine, each with its parent's id."""
    found: dict[_Process, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may contain anything: state, parent, ..., start time (field 22 of proc(5)).
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[_Process(int(entry.parent.name), int(fields[19]))] = int(fields[1])
    return found
