"""Command lines that are printed to be typed, as they work in the reader's shell, whatever its PATH has."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

NAME = "gaudi-patch"
#: Where a command line begins: a line to type next, or one that a sentence quotes.
_COMMAND = re.compile(rf"(?:(?<=^)|(?<=^next: )|(?<=maintainers: )|(?<=`)|(?<=<\())({NAME})(?= (?!has )[a-z-])")


def as_typed(text: str) -> str:
    """Return ``text`` with the commands in it as they work here.

    Where the program was started by its path and a shell would not find it, or would find another one, by its name.
    """
    if NAME not in text:
        return text
    program = _program()
    return text if program == NAME else _COMMAND.sub(lambda match: program, text)


def _program() -> str:
    """Return the word that starts this program: its name, or its path where PATH does not lead to it."""
    started = sys.argv[0] if sys.argv else ""
    if Path(started).name != NAME or os.sep not in started:
        return NAME  # by `python -m`, or from a test: who starts it like this knows how to
    for folder in os.get_exec_path():
        file = Path(folder, NAME)
        if file.is_file() and os.access(file, os.X_OK):
            with suppress(OSError):  # it was removed while it ran
                if file.samefile(started):
                    return NAME
            break
    import shlex

    return shlex.quote(str(Path(started).absolute()))
