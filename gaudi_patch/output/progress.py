"""What is at work, and since when: live on a terminal, plain lines with elapsed time in a log, nothing beside JSON.

A step within a step is a line of the outer one, so that one display is on the screen at a time.
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

#: Seconds between the lines of a long step in a log, and between the looks at what it has come to.
_BETWEEN_LINES = 30.0
_BETWEEN_LOOKS = 0.5


class _Ambient:
    """What holds for the whole run: whether anything is told, the step at work, what an interrupt leaves behind."""

    quiet = False
    step: Step | None = None
    left = ""


def start(*, quiet: bool) -> None:
    """Begin a command: ``quiet`` where its JSON is all that is wanted."""
    _Ambient.quiet, _Ambient.left = quiet, ""


def say(text: str) -> None:
    """Say something that stays, unless JSON is all that is wanted."""
    if not _Ambient.quiet:
        narrate([text])


def leaves(text: str) -> None:
    """Say what is left where the run is interrupted from now on."""
    _Ambient.left = text


def left() -> str:
    """Return what an interrupt now leaves behind; "" where nobody has said."""
    return _Ambient.left


class Step:
    """One thing that takes its time. ``total`` is how many parts it has, 0 where that is not known."""

    def __init__(self, text: str, total: int, look: Callable[[], str] | None) -> None:
        self.text, self.total, self.parts = text, total, 0
        self._look, self._detail = look, ""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self._started

    def begin(self, text: str) -> None:
        """A part begins."""
        self._detail = text
        self._begun(text)

    def tell(self, text: str) -> None:
        """Say what of the part is at work; only a terminal shows it."""
        self._detail = text

    def end(self, text: str) -> None:
        """A part has ended."""
        self.parts += 1
        self.line(f"{text}{self.count()}")

    def line(self, text: str) -> None:
        """Say something that stays."""
        narrate([f"  {text}"])

    def count(self) -> str:
        """Return ``(2 of 6)``; "" where it is not known how many parts there are."""
        return f" ({self.parts} of {self.total})" if self.total else ""

    def detail(self) -> str:
        """Return what is at work just now, looked at where there is something to look at."""
        return ": ".join(part for part in (self._detail, self.seen()) if part)

    def seen(self) -> str:
        """Return what is to be looked at, such as a size; "" for nothing."""
        if self._look is not None:
            with suppress(OSError):  # what it measures comes and goes
                return self._look()
        return ""

    def _begun(self, text: str) -> None:
        narrate([f"  {text} ..."])

    def _tick(self) -> None:
        """Show that it is still at work."""


class _Logged(Step):
    """In a log: a line when a part begins, one when it ends, and one every half minute between."""

    _said = 0.0

    def _tick(self) -> None:
        if self.seconds - self._said >= _BETWEEN_LINES:
            self._said = self.seconds
            detail = self.detail()
            narrate([f"  still at work after {self.seconds:.0f} s{f': {detail}' if detail else ''}"])


class _Live(Step):
    """On a terminal: one line that spins, with the time and what is at work."""

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
        room = max(self.display.console.width - 14, 20)  # beside the spinner and the time
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
    """Within another step: what it says is said by that one."""

    def __init__(self, text: str, total: int, look: Callable[[], str] | None, outer: Step) -> None:
        super().__init__(text, total, look)
        self._outer = outer

    def tell(self, text: str) -> None:
        self._outer.tell(text)

    def _begun(self, text: str) -> None:
        self._outer.tell(text)
        self._outer._begun(f"{text}")


class _Quiet(Step):
    """Where JSON is wanted: nothing is said."""

    def line(self, text: str) -> None:
        return

    def _begun(self, text: str) -> None:
        return


@contextmanager
def step(text: str, total: int = 0, look: Callable[[], str] | None = None) -> Iterator[Step]:
    """Show that something is at work, from its beginning to its end.

    ``look`` says how far it has come, such as a size; it is called from a thread. Where the step is left by an
    exception, no end is told: the error says why.
    """
    outer = _Ambient.step
    if _Ambient.quiet:
        yield _Quiet(text, total, look)
        return
    if outer is not None:
        inner = _Inner(text, total, look, outer)
        inner.begin(text)
        yield inner
        narrate([f"  done in {inner.seconds:.1f} s"])
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
    """Let a thread show that ``shown`` is still at work; gone, with the display, before the block is left."""
    display: Any = shown.display if isinstance(shown, _Live) else None
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(_BETWEEN_LOOKS):
            shown._tick()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    # Signals are for the main thread: one that another took would not end what the main thread waits for.
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
