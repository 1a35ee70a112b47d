"""The one exception type that users see, and the named exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every command; the README documents them as a contract."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    ENVIRONMENT = 4
    SMOKE = 5
    HUMAN = 6
    PENDING = 10
    BUG = 70
    INTERRUPTED = 130
    TERMINATED = 143


class GaudiPatchError(Exception):
    """An error for users: what happened, where, and what to do next.

    ``code`` is stable and machine-readable; ``message`` says what happened and what was left as it was;
    ``hint`` says what to do next. ``file`` and ``line`` point into a file when the fault is there.
    """

    def __init__(
        self,
        exit: Exit,  # noqa: A002 - the word of the contract
        code: str,
        message: str,
        hint: str = "",
        file: str = "",
        line: int = 0,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.exit, self.code, self.message, self.hint = exit, code, message, hint
        self.file, self.line, self.details = file, line, list(details)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + self.message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for ``word`` as the end of a message; "" if no known name is close.

    The leading dashes do not count: all options share them.
    """
    from difflib import get_close_matches

    names = {name.lower().lstrip("-"): name for name in known}
    close = [names[name] for name in get_close_matches(word.lower().lstrip("-"), names, n=2, cutoff=0.6)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def bad_patch(message: str, file: str, line: int = 0, hint: str = "") -> GaudiPatchError:
    """Return the error for a malformed or unsafe patch file."""
    return GaudiPatchError(Exit.USAGE, "bad-patch", message, hint, file, line)


def bad_manifest(message: str, file: str, line: int = 0, hint: str = "") -> GaudiPatchError:
    """Return the error for a malformed or contradictory manifest or lock."""
    return GaudiPatchError(Exit.USAGE, "bad-manifest", message, hint, file, line)


def refused(code: str, message: str, hint: str = "", file: str = "", line: int = 0) -> GaudiPatchError:
    """Return the error for drift or a conflict; nothing was changed."""
    return GaudiPatchError(Exit.REFUSED, code, message, hint, file, line)
