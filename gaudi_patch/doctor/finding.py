"""The types of a check and of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gaudi_patch.doctor.case import Case


class Level(str, Enum):
    """The result of a check. ``UNKNOWN`` says what could not be seen; it means neither good nor bad."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    UNKNOWN = "unknown"


class Answer(NamedTuple):
    """What a check saw, and what to do about it; ``why``, if set, replaces the reason of its check."""

    level: Level
    what: str
    fix: str = ""
    why: str = ""


class Finding(NamedTuple):
    """An answer with the constants of its check: why it matters, and its source."""

    id: str
    level: Level
    what: str
    why: str
    fix: str
    source: str


class Check(NamedTuple):
    """One check. ``id`` is stable: guides and scripts name it. ``source`` is a text, or a command line for the case.

    ``needs`` are the required parts of a case. If one is missing, the answer is unknown with the reason, and ``run`` is
    not called.
    """

    id: str
    asks: str
    why: str
    source: str | Callable[[Case], str]
    needs: Sequence[str]
    run: Callable[[Case], Answer]

    def __call__(self, case: Case) -> Finding:
        reasons = (case.lacking(need) for need in self.needs)
        reason = next((text for text in reasons if text), "")
        answer = Answer(Level.UNKNOWN, reason) if reason else self.run(case)
        source = self.source if isinstance(self.source, str) else self.source(case)
        return Finding(self.id, answer.level, answer.what, answer.why or self.why, answer.fix, source)


def check(
    name: str, asks: str, *, why: str, source: str | Callable[[Case], str], needs: Sequence[str] = ()
) -> Callable[[Callable[[Case], Answer]], Check]:
    """Turn a function that examines a case into a check."""
    return lambda run: Check(name, asks, why, source, needs, run)


def ok(what: str) -> Answer:
    return Answer(Level.OK, what)


def warning(what: str, fix: str, why: str = "") -> Answer:
    return Answer(Level.WARNING, what, fix, why)


def failure(what: str, fix: str) -> Answer:
    return Answer(Level.FAILURE, what, fix)


def unknown(what: str, fix: str = "") -> Answer:
    """Return an unknown answer: ``what`` could not be seen; ``fix`` says how to find out."""
    return Answer(Level.UNKNOWN, what, fix)
