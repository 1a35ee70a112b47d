"""The typed results of `apply` and `rollback`, from which text and JSON are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gaudi_patch.engine.plan import Plan
from gaudi_patch.engine.situation import Situation


class Done(str, Enum):
    """The effect of a run on the installation."""

    NOT_NEEDED = "not-needed"  # upstream has it
    ALREADY = "already"  # already in the requested state
    WOULD_APPLY = "would-apply"  # a dry run
    APPLIED = "applied"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class ApplyOutcome:
    """The result of `apply`. ``series`` is "" if none is needed, ``plan`` None if nothing was planned.

    ``after`` was read from disk after the last write; without a write it equals ``before``.
    """

    done: Done
    before: Situation
    after: Situation
    series: str = ""
    plan: Plan | None = None
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Return whether the run changed files."""
        return self.done is Done.APPLIED


@dataclass(frozen=True)
class RollbackOutcome:
    """The result of `rollback`. ``saved`` are the copies of edited files made by --force."""

    done: Done
    before: Situation
    after: Situation
    series: str = ""
    saved: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Return whether the run changed files."""
        return self.done is Done.ROLLED_BACK
