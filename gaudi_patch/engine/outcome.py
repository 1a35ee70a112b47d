"""What `apply` and `rollback` came to: the typed results that text and JSON are made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gaudi_patch.engine.plan import Plan
from gaudi_patch.engine.situation import Situation


class Done(str, Enum):
    """What a run did to the installation."""

    NOT_NEEDED = "not-needed"  # upstream has it
    ALREADY = "already"  # the asked-for state held before
    WOULD_APPLY = "would-apply"  # a dry run
    APPLIED = "applied"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class ApplyOutcome:
    """What `apply` did. ``series`` is "" where none is needed, ``plan`` None where nothing was planned.

    ``after`` was read from disk after the last write; without a write it is ``before``.
    """

    done: Done
    before: Situation
    after: Situation
    series: str = ""
    plan: Plan | None = None
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether files are other than before the run."""
        return self.done is Done.APPLIED


@dataclass(frozen=True)
class RollbackOutcome:
    """What `rollback` did. ``saved`` are the copies of edited files that --force has made."""

    done: Done
    before: Situation
    after: Situation
    series: str = ""
    saved: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether files are other than before the run."""
        return self.done is Done.ROLLED_BACK
