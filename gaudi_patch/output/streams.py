"""Write to a stream that may be closed, full or unable to encode; decide whether to colour it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import IO

from gaudi_patch.output.result import Color


class _Chosen:
    """The value of --color, for everything that a run shows: results, progress, warnings and usage errors."""

    color = Color.AUTO


def choose(color: Color) -> None:
    """Use this value of --color for the rest of the run."""
    _Chosen.color = color


def choose_from(arguments: Sequence[str]) -> None:
    """Use the value of --color on a command line that is not parsed yet, and may be invalid."""
    words = list(arguments)[: arguments.index("--")] if "--" in arguments else list(arguments)
    given = [word.partition("=")[2] for word in words if word.startswith("--color=")]
    given += [value for word, value in itertools.pairwise(words) if word == "--color"]
    known = [color for color in Color if color.value in given[-1:]]
    choose(known[0] if known else Color.AUTO)


def wants_color(stream: IO[str] | None, color: Color | None = None) -> bool:
    """Return whether to colour the output to ``stream``: by ``color``, else as chosen for the run.

    NO_COLOR wins over FORCE_COLOR (https://no-color.org), and a dumb terminal gets none.
    """
    color = _Chosen.color if color is None else color
    if color is not Color.AUTO:
        return color is Color.ALWAYS
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and not is_dumb()


def is_dumb(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the terminal supports text only, or is unknown."""
    return environ.get("TERM", "dumb") == "dumb"


def is_terminal(stream: IO[str] | None) -> bool:
    """Return whether ``stream`` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def write(stream: IO[str] | None, text: str) -> str:
    """Write and flush; return why ``text`` was not written completely, "" if it was."""
    if stream is None:  # closed by the parent: `>&-`
        return "it is closed"
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # LANG=C and a name that is not ASCII
            stream.write(text.encode("ascii", "backslashreplace").decode())
        stream.flush()
    except OSError as error:
        forget(stream)
        return error.strerror or str(error) or type(error).__name__
    except ValueError as error:
        forget(stream)
        return str(error)
    return ""


def forget(stream: IO[str]) -> None:
    """Keep Python from complaining at exit about a closed pipe (`gaudi-patch show | head`) or a full disk."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
        stream.flush()  # what is left in its buffer
    except (OSError, ValueError):
        return  # no descriptor, or closed: nothing remains to flush at exit
    finally:
        os.close(null)
