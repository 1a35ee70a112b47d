"""The record of what a run did to the files; exit code, messages, JSON and summary derive from it.

A command creates one :class:`Progress` and passes it down; the transaction updates it. Whatever ends the run (an
error, a signal or a bug), the record gives the current state.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

#: Signals that end a run on request; all are handled alike.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class Stage(str, Enum):
    """The stage of a run's last transaction."""

    NOT_STARTED = "not-started"
    UNDER_WAY = "under-way"
    UNDONE = "undone"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"  # committed, then rolled back by a second transaction
    UNDO_FAILED = "undo-failed"


@dataclass
class Progress:
    """The record of one run.

    ``goal`` describes the state after the commit, ``recovered`` how a killed run was undone first, ``warnings`` what
    an undo left of its journal.
    """

    stage: Stage = Stage.NOT_STARTED
    goal: str = "all changes were made"
    recovered: str = ""
    warnings: list[str] = field(default_factory=list)

    def words(self) -> str:
        """Return the current state as the end of a message."""
        return {
            Stage.NOT_STARTED: "nothing was changed",
            Stage.UNDER_WAY: "the next `apply` or `rollback` undoes what was begun",
            Stage.UNDONE: "all changes were undone",
            Stage.COMMITTED: self.goal,
            Stage.ROLLED_BACK: "nothing was proved, and the series was rolled back",
            Stage.UNDO_FAILED: "undoing it failed, and the next `apply` or `rollback` tries again",
        }[self.stage]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer the signals that end a run until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
