"""What a run has done to the files: the one record that exit code, words, JSON and summary derive from.

A command makes one :class:`Progress` and hands it down; the transaction moves it on. Whatever ends the run, an
error, a signal or a bug, the record says what holds then.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """The record of one run.

    ``goal`` says what holds once it is committed, ``recovered`` what was done first about a killed run,
    ``warnings`` what an undo left of its journal.
    """

    stage: Stage = Stage.NOT_STARTED
    goal: str = "all changes were made"
    recovered: str = ""
    warnings: list[str] = field(default_factory=list)

    def words(self) -> str:
        """Return what holds now, to end a message with."""
        return {
            Stage.NOT_STARTED: "nothing was changed",
            Stage.UNDER_WAY: "the next `apply` or `rollback` undoes what was begun",
            Stage.UNDONE: "all changes were rolled back",
            Stage.COMMITTED: self.goal,
            Stage.ROLLED_BACK: "nothing was proved, and the series was rolled back",
            Stage.UNDO_FAILED: "undoing it failed, and the next `apply` or `rollback` tries again",
        }[self.stage]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the signals that end a run wait to the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
