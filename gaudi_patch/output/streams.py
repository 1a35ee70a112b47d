"""Write to a stream that may be closed, full or unable to encode; decide whether it takes colours."""

from __future__ import annotations

import os
from typing import IO

from gaudi_patch.output.result import Color


def wants_color(stream: IO[str] | None, color: Color) -> bool:
    """Return whether to colour: NO_COLOR wins over FORCE_COLOR (https://no-color.org), a dumb terminal gets none."""
    if color is not Color.AUTO:
        return color is Color.ALWAYS
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def is_terminal(stream: IO[str] | None) -> bool:
    """Return whether ``stream`` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def write(stream: IO[str] | None, text: str) -> str:
    """Write and flush; return why not all of ``text`` went out, "" where it did."""
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
    """Keep Python from complaining at exit of a closed pipe (`gaudi-patch show | head`) or of a full disk."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
        stream.flush()  # what is left in its buffer
    except (OSError, ValueError):
        return  # it has no descriptor, or is closed: nothing is left to be flushed at exit
    finally:
        os.close(null)
