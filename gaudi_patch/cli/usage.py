"""Usage errors in the form of all other errors: what is wrong, a suggestion, and what to type next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean

#: click's class, from the click that typer uses: the installed one or typer's own copy.
UsageError: Any = typer.BadParameter.__mro__[1]

#: Options of the program that are commands elsewhere.
_OPTIONS = frozenset({"version", "help"})
#: click's words where an option takes one of a few: what was given, and the list.
_CHOICES = re.compile(r"'([^']*)' is not one of (.*)$", re.DOTALL)


@contextmanager
def usage_faults(names: Iterable[str]) -> Iterator[None]:
    """Turn a usage error in the block into a :class:`ShownUsageError`; ``names`` are the existing commands."""
    try:
        yield
    except UsageError as error:
        if isinstance(error, ShownUsageError) or _is_help(error):
            raise
        known = getattr(getattr(error.ctx, "command", None), "commands", None) or names
        raise ShownUsageError(error, known) from error


def _is_help(error: object) -> bool:
    return type(error).__name__ == "NoArgsIsHelpError"


class ShownUsageError(UsageError):  # type: ignore[misc]
    """A usage error shown in gaudi-patch's form; the exit code is 2."""

    def __init__(self, error: Any, names: Iterable[str]) -> None:  # noqa: ANN401 - see UsageError
        super().__init__(error.message, error.ctx)
        self._error, self._names = error, list(names)

    def show(self, file: Any = None) -> None:  # noqa: ANN401 - as click has it
        """Write the error to stderr."""
        from gaudi_patch.output.report import error_lines, narrate

        narrate(error_lines(self.fault))

    @property
    def fault(self) -> GaudiPatchError:
        """Return this usage error as a GaudiPatchError."""
        names: list[str] = []
        context = self.ctx
        while context is not None and context.parent is not None:  # the first name is the program itself
            names.insert(0, context.info_name)
            context = context.parent
        path = " ".join(["gaudi-patch", *names])
        return GaudiPatchError(Exit.USAGE, "usage", self._message(), f"`{path} --help` lists its options")

    def _message(self) -> str:
        error = self._error
        text = str(error.format_message()).partition(" (Possible options:")[0].partition(" Did you mean")[0]
        text = text.rstrip(".").replace("\n", " ")
        text = text[:1].lower() + text[1:]
        if possible := getattr(error, "possibilities", None):
            return text + did_you_mean(error.option_name, possible)
        if text.startswith("no such command "):
            word = text.removeprefix("no such command ").strip("'\"")
            return text + (f"; did you mean --{word}?" if word in _OPTIONS else did_you_mean(word, self._names))
        if choices := _CHOICES.search(text):
            return text + did_you_mean(choices[1], re.findall("'([^']*)'", choices[2]))
        return text
