"""Progress of the run: live on a terminal, plain lines with elapsed time in a log, nothing with JSON.

A nested step is a line of the outer step, so that the screen shows one display at a time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gaudi_patch.output.report import narrate
from gaudi_patch.output.streams import is_dumb, is_terminal, wants_color

#: Seconds between the lines of a long step in a log, and between two readings of its progress.
_BETWEEN_LINES = 30.0
_BETWEEN_LOOKS = 0.5
#: How many times its own duration a reading is followed by a rest: measuring a large tree must not slow the step.
_REST = 10


class _Ambient:
    """State of the whole run: whether to report, the current step, what an interrupt leaves behind."""

    quiet = False
    step: Step | None = None
    left = ""


def start(*, quiet: bool) -> None:
    """Begin a command; ``quiet`` if only its JSON is wanted."""
    _Ambient.quiet, _Ambient.left = quiet, ""


def say(text: str) -> None:
    """Print a permanent line, unless only JSON is wanted."""
    if not _Ambient.quiet:
        narrate([text])


def leaves(text: str) -> None:
    """Record what an interrupt would leave behind from now on."""
    _Ambient.left = text


def left() -> str:
    """Return what an interrupt would now leave behind; "" if not recorded."""
    return _Ambient.left


class Step:
    """A long operation. ``total`` is its number of parts, 0 if unknown."""

    def __init__(self, text: str, total: int, look: Callable[[], str] | None) -> None:
        self.text, self.total, self.parts = text, total, 0
        self._look, self._detail = look, ""
        self._started = time.monotonic()
        self._part_started: float | None = None

    @property
    def seconds(self) -> float:
        """Return how long the step has been running."""
        return time.monotonic() - self._started

    def begin(self, text: str) -> None:
        """Begin a part."""
        self._detail, self._part_started = text, time.monotonic()
        self._begun(text)

    def tell(self, text: str) -> None:
        """Show the current detail of the part, on a terminal only."""
        self._detail = text

    def end(self, text: str) -> None:
        """End a part."""
        self.parts += 1
        self._detail, self._part_started = "", None
        self.line(f"{text}{self.count()}")

    def line(self, text: str) -> None:
        """Print a permanent line."""
        narrate([f"  {text}"])

    def running(self) -> str:
        """Return how long the part has been running, and the step if that differs."""
        if self._part_started is None:
            return f"{self.seconds:.0f} s"
        part = f"{time.monotonic() - self._part_started:.0f} s"
        return part if part == (whole := f"{self.seconds:.0f} s") else f"{part}, {whole} in all"

    @contextmanager
    def inner(self, text: str, look: Callable[[], str] | None) -> Iterator[None]:
        """Show a nested step as a part; then continue with the part that it belongs to."""
        before = self._detail, self._part_started, self._look
        self._look = look or self._look
        self.begin(text)
        try:
            yield
        finally:
            self._detail, self._part_started, self._look = before

    def count(self) -> str:
        """Return ``(2 of 6)``; "" if the number of parts is unknown."""
        return f" ({self.parts} of {self.total})" if self.total else ""

    def detail(self) -> str:
        """Return the current detail, measured if there is something to measure."""
        return ": ".join(part for part in (self._detail, self.seen()) if part)

    def seen(self) -> str:
        """Return the current measurement, such as a size; "" for none."""
        if self._look is not None:
            with suppress(OSError):  # what is measured may not exist at the moment
                return self._look()
        return ""

    def _begun(self, text: str) -> None:
        narrate([f"  {text} ..."])

    def _tick(self) -> None:
        """Show that the step is still running."""


class _Logged(Step):
    """A step in a log: one line when a part begins, one when it ends, and one for every half minute without a line."""

    _said = 0.0

    def line(self, text: str) -> None:
        self._said = self.seconds
        super().line(text)

    def _begun(self, text: str) -> None:
        self._said = self.seconds
        super()._begun(text)

    def _tick(self) -> None:
        if self.seconds - self._said >= _BETWEEN_LINES:
            detail = self.detail()
            self.line(f"still running after {self.running()}{f': {detail}' if detail else ''}")


class _Live(Step):
    """A step on a terminal: one line with a spinner, the time and the current detail."""

    def __init__(self, text: str, total: int, look: Callable[[], str] | None) -> None:
        super().__init__(text, total, look)
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        plain = not wants_color(sys.stderr)
        console = Console(file=sys.stderr, no_color=plain, highlight=False, markup=False, emoji=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self.display = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._task = self.display.add_task(text, total=None)

    def _begun(self, text: str) -> None:
        self._tick()

    def _tick(self) -> None:
        room = max(self.display.console.width - 14, 20)  # next to the spinner and the time
        self.display.update(self._task, description=_fitting(f"{self.text}{self.count()}", self.detail(), room))


def _fitting(what: str, detail: str, room: int) -> str:
    """Return both on one line of ``room`` columns; else the detail below, cropped where it is longer than a line."""
    joined = f"{what}: {detail}" if detail else what
    if len(joined) <= room:
        return joined
    import textwrap

    below = [detail if len(detail) <= room else f"{detail[: room - 1]}…"] if detail else []
    return "\n".join([*textwrap.wrap(what, room, break_on_hyphens=False), *below])


class _Inner(Step):
    """A nested step: the outer step prints its lines."""

    def __init__(self, text: str, total: int, look: Callable[[], str] | None, outer: Step) -> None:
        super().__init__(text, total, look)
        self._outer = outer

    def begin(self, text: str) -> None:
        self._outer.begin(text)

    def tell(self, text: str) -> None:
        self._outer.tell(text)

    def line(self, text: str) -> None:
        self._outer.line(text)


class _Quiet(Step):
    """A step in JSON mode: prints nothing."""

    def line(self, text: str) -> None:
        return

    def _begun(self, text: str) -> None:
        return


@contextmanager
def step(text: str, total: int = 0, look: Callable[[], str] | None = None) -> Iterator[Step]:
    """Show the progress of an operation from its beginning to its end.

    ``look`` returns a measure of progress, such as a size; it is called from a thread. After an exception no end is
    printed, because the error says why.
    """
    outer = _Ambient.step
    if _Ambient.quiet:
        yield _Quiet(text, total, look)
        return
    if outer is not None:
        inner = _Inner(text, total, look, outer)
        with outer.inner(text, look):
            yield inner
        outer.line(f"done in {inner.seconds:.1f} s")
        return
    live = _is_live()
    if not live:
        narrate([f"{text} ..."])
    shown = _Live(text, total, look) if live else _Logged(text, total, look)
    _Ambient.step = shown
    try:
        with _ticking(shown):
            yield shown
    finally:
        _Ambient.step = None
    size = f", {seen}" if (seen := shown.seen()) else ""
    narrate([f"{text}: done in {shown.seconds:.1f} s{size}" if live else f"  done in {shown.seconds:.1f} s{size}"])


def _is_live() -> bool:
    log = is_dumb() or os.environ.get("GITHUB_ACTIONS") or os.environ.get("CI")
    return is_terminal(sys.stderr) and not log


@contextmanager
def _ticking(shown: Step) -> Iterator[None]:
    """Run a thread that shows that ``shown`` is still running; thread and display end with the block."""
    display: Any = shown.display if isinstance(shown, _Live) else None
    ended = threading.Event()

    def tick() -> None:
        rest = _BETWEEN_LOOKS
        while not ended.wait(rest):
            before = time.monotonic()
            shown._tick()
            rest = max(_BETWEEN_LOOKS, _REST * (time.monotonic() - before))

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    # The main thread must get the signals: one taken by this thread would not end the main thread's wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if display is not None:
            display.start()
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if display is not None:
            display.stop()
