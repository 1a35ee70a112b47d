"""Run a program that may hang, crash or print endlessly, and leave no process behind.

Every program runs in its own session and process group. The whole group is killed when the program has ended, when
its time is up, when this process is interrupted and, by the kernel, when this process is killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import FrameType

from gaudi_patch.inside.lifeline import Lifeline

OUTPUT_LIMIT = 1024 * 1024
_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 1.0
_BLOCK = 65536
_DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM)


@dataclass(frozen=True)
class Finished:
    """The result of a program.

    returncode: exit status, or minus the signal's number (as in ``subprocess``).
    timed_out: whether it was killed because its time was up.
    tail: the last ``OUTPUT_LIMIT`` bytes that it wrote to stdout and stderr, as text.
    dropped: the number of bytes before the tail.
    """

    returncode: int
    timed_out: bool
    seconds: float
    tail: str
    dropped: int

    @property
    def ending(self) -> str:
        """Return the exit in words: ``exit status 3``, ``killed by SIGSEGV``."""
        return ending(self.returncode)

    @property
    def last_line(self) -> str:
        """Return the last non-blank line of output; for an exception, its message."""
        return last_line(self.tail)


def ending(returncode: int) -> str:
    """Put an exit status into words: ``exit status 3``, ``killed by SIGSEGV``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def last_line(text: str) -> str:
    """Return the last 500 characters of the last non-blank line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-500:] if lines else ""


class Tail:
    """The last ``limit`` bytes of what is added."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        self._kept += data
        # Cut at twice the limit, not at each read, which would move 1 MB per read in a flood of output.
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


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Call Python's signal handlers at the end of the block.

    Signals are not blocked, because the child would inherit that and survive a SIGTERM.
    """
    pending: list[tuple[int, FrameType | None]] = []

    def defer(number: int, frame: FrameType | None) -> None:
        pending.append((number, frame))

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # only the main thread runs handlers and may set them
        for number in _DEFERRED:
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, defer)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arrived, frame in pending:
            handlers[signal.Signals(arrived)](arrived, frame)


class Child:
    """A running program; leaving the ``with`` block kills its process group and reaps it.

    ``output`` is what it writes to stdout and stderr. Raises OSError if it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], cwd: Path | str, inherit: Sequence[int] = ()
    ) -> None:
        self.returncode: int | None = None
        self._lifeline = Lifeline()
        try:
            # An exception from a signal handler in the middle of Popen would lose the process and let it run.
            with _signals_deferred():
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=dict(environ),
                    cwd=cwd,
                    start_new_session=True,
                    bufsize=0,
                    pass_fds=(self._lifeline.end, *inherit),
                )
                self._lifeline.tie(-self._process.pid)
        except BaseException:
            if hasattr(self, "_process"):  # started, and then interrupted
                self.kill()
            self._lifeline.cut()
            raise
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        self._pidfd = self._open_pidfd()

    def _open_pidfd(self) -> int | None:
        try:  # Linux 5.3; without it the end is noticed within _POLL_SECONDS
            return os.pidfd_open(self._process.pid)
        except (OSError, AttributeError):
            return None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def follow(
        self,
        readers: Mapping[int, Callable[[bytes], object]],
        deadline: float,
        writing: tuple[FileIO, bytes] | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Pass on what arrives at each descriptor of ``readers`` until the program ends or ``until`` returns true.

        ``writing`` is a pipe, closed after sending the given bytes. Returns False if ``deadline``
        (of time.monotonic) came first. Does not wait for the end of file: a grandchild may keep a pipe open.
        """
        poll = select.poll()
        for number in readers:
            os.set_blocking(number, False)
            poll.register(number, select.POLLIN)
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        sink = -1
        if writing is not None:
            pipe, waiting = writing[0], memoryview(writing[1])
            sink = pipe.fileno()
            os.set_blocking(sink, False)
            poll.register(sink, select.POLLOUT)
        while not until() and not self._has_ended():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            events = poll.poll(min(left, _POLL_SECONDS if self._pidfd is None else left) * 1000 + 1)
            for number, _ in events:
                if number in readers:
                    data = _read(number)
                    if data:
                        readers[number](data)
                    elif data is not None:  # end of file: the program closed it and goes on running
                        poll.unregister(number)
                elif number == sink:
                    waiting = _write(sink, waiting)
                    if not waiting:
                        poll.unregister(sink)
                        pipe.close()
        return True

    def drain(self, readers: Mapping[int, Callable[[bytes], object]]) -> None:
        """Pass on what is left in the pipes; bounded, because a process outside the group may fill them."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        for number, add in readers.items():
            while time.monotonic() < deadline and (data := _read(number)):
                add(data)

    def kill(self) -> int:
        """Kill the whole group, and return the program's own exit status."""
        if self.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)  # not yet reaped, so the process id is still its own
            except (ProcessLookupError, PermissionError):  # its members changed their user, or have ended
                self._process.kill()
            self.returncode = self._process.wait()
            self._lifeline.cut()
        return self.returncode

    def _has_ended(self) -> bool:
        # WNOWAIT leaves the process unreaped, so that its group's number cannot be given to another one
        # before the group is killed.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _read(number: int) -> bytes | None:
    """Read up to one block; return b"" at the end of file, None if nothing is available."""
    try:
        return os.read(number, _BLOCK)
    except BlockingIOError:
        return None


def _write(number: int, data: memoryview) -> memoryview:
    """Send as much as the pipe accepts; return the rest, which is empty if nobody reads any more."""
    try:
        return data[os.write(number, data[:_BLOCK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def run(
    command: Sequence[str],
    *,
    timeout: float,
    environ: Mapping[str, str],
    cwd: Path,
    output_limit: int = OUTPUT_LIMIT,
    on_output: Callable[[bytes], object] | None = None,
) -> Finished:
    """Run ``command`` in a process group of its own and wait for it, at most ``timeout`` seconds.

    ``on_output`` receives the program's output as it arrives. Raises OSError if the program cannot be started.
    """
    begun = time.monotonic()
    tail = Tail(output_limit)
    add: Callable[[bytes], object] = tail.add
    if on_output is not None:

        def add(data: bytes) -> None:
            tail.add(data)
            on_output(data)

    with Child(command, environ, cwd) as child:
        readers = {child.output: add}
        timed_out = not child.follow(readers, begun + timeout)
        returncode = child.kill()
        child.drain(readers)
    return Finished(returncode, timed_out, time.monotonic() - begun, tail.text(), tail.dropped)
