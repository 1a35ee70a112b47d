"""What a case or server leaves running: processes below this one that were not there before it."""

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
    """Become the parent of whatever a case leaves behind (Linux), so that it is found and ended."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Process:
    """A process; its start time tells it from another one that is given its number later."""

    pid: int
    started: int


class Newcomers:
    """The processes that have come to run below this one since the object was made.

    Those that ran before, and what comes from them, belong to somebody else: they are neither counted nor ended.
    """

    def __init__(self) -> None:
        self._before = frozenset(_running())

    def running(self) -> list[int]:
        """Return their numbers, now."""
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
        """Wait ``grace`` seconds for them to end, kill those that have not; gives their command lines."""
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
            with contextlib.suppress(ChildProcessError):  # not adopted: another process waits for it
                os.waitpid(pid, 0)
        return commands


def _running() -> dict[_Process, int]:
    """Return all processes of the machine that have not ended, each with its parent's number."""
    found: dict[_Process, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may contain anything: state, parent, ..., start time (field 22 of proc(5)).
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[_Process(int(entry.parent.name), int(fields[19]))] = int(fields[1])
    return found
