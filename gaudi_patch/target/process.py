"""Run a program that may hang, crash or print without end, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OUTPUT_LIMIT = 1024 * 1024
_MARK = "gaudi-patch-answer: "  # what is no log line of LMCache or torch
_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    returncode: exit status, or minus the signal's number (as in ``subprocess``).
    timed_out: it was killed because the time was up.
    tail: the last ``OUTPUT_LIMIT`` bytes that it wrote to stdout and stderr, as text.
    dropped: how many bytes came before the tail.
    """

    returncode: int
    timed_out: bool
    seconds: float
    tail: str
    dropped: int

    @property
    def ending(self) -> str:
        """The exit in words: ``exit status 3``, ``killed by SIGSEGV``."""
        if self.returncode >= 0:
            return f"exit status {self.returncode}"
        try:
            return f"killed by {signal.Signals(-self.returncode).name}"
        except ValueError:
            return f"killed by signal {-self.returncode}"

    @property
    def last_line(self) -> str:
        """The last line of output that is not blank; for an exception, what it says."""
        lines = [line.strip() for line in self.tail.splitlines() if line.strip()]
        return lines[-1][-500:] if lines else ""

    @property
    def answer(self) -> dict[str, Any] | None:
        """The JSON object that one of gaudi_patch/probes has printed; None where it came to no answer."""
        lines = [line for line in self.tail.splitlines() if line.startswith(_MARK)]
        found: dict[str, Any] | None = json.loads(lines[-1].removeprefix(_MARK)) if lines else None
        return found


class _Tail:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        self._kept += data
        # Cut at twice the limit, not at each read: a flood would otherwise move 1 MB a read.
        if len(self._kept) > 2 * self._limit:
            self._cut()

    def _cut(self) -> None:
        excess = len(self._kept) - self._limit
        if excess > 0:
            del self._kept[:excess]
            self.dropped += excess

    def text(self) -> str:
        self._cut()
        return self._kept.decode("utf-8", "replace")


def run(
    command: Sequence[str],
    *,
    timeout: float,
    environ: Mapping[str, str],
    cwd: Path,
    output_limit: int = OUTPUT_LIMIT,
) -> Finished:
    """Run ``command`` in a process group of its own and wait for it, at most ``timeout`` seconds.

    The group is killed whole when the program ends, when the time is up, and when this process is
    interrupted, so that a server which the program started does not outlive it.

    Raises OSError where the program cannot be started.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        cwd=cwd,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdout is not None
    tail = _Tail(output_limit)
    timed_out = False
    try:
        timed_out = not _follow(process, process.stdout, tail, begun + timeout)
    finally:
        _kill_group(process.pid)
        returncode = process.wait()
        _drain(process.stdout, tail)
        process.stdout.close()
    return Finished(returncode, timed_out, time.monotonic() - begun, tail.text(), tail.dropped)


def _follow(process: subprocess.Popen[bytes], pipe: IO[bytes], tail: _Tail, deadline: float) -> bool:
    """Collect output until the program ends; False if the deadline came first."""
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not _has_ended(process.pid):
            if time.monotonic() >= deadline:
                return False
            if not selector.get_map():
                time.sleep(_POLL_SECONDS)
            elif selector.select(_POLL_SECONDS):
                data = pipe.read(65536)
                if data:
                    tail.add(data)
                elif data is not None:  # end of file: the program closed its output, and runs on
                    selector.unregister(pipe)
    return True


def _has_ended(pid: int) -> bool:
    # WNOWAIT leaves the process unreaped, so that its group's number cannot be given to another one
    # before the group is killed.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _drain(pipe: IO[bytes], tail: _Tail) -> None:
    """What is left in the pipe; bounded, since a process outside the group may hold it open."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        data = pipe.read(65536)
        if not data:
            return
        tail.add(data)
