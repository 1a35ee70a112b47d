"""What a run has done to the files: the one record that exit code, words, JSON and summary derive from.

A command makes one :class:`Progress` and hands it down; the transaction moves it on. Whatever ends the run, an
error, a signal or a bug, the record says what holds then.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

#: What ends a run on request; each is answered in the same way.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class Stage(str, Enum):
    """How far the last transaction of a run has come."""

    NOT_STARTED = "not-started"
    UNDER_WAY = "under-way"
    UNDONE = "undone"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"  # committed, and taken back by a second transaction
    UNDO_FAILED = "undo-failed"


@dataclass
class Progress:
    """The record of one run. ``recovered`` says what was done first about a killed run, "" for nothing."""

    stage: Stage = Stage.NOT_STARTED
    recovered: str = ""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the signals that end a run wait to the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
