"""Plain text wrapped to a width: lines break only at spaces, and continue indented.

A word is never broken, so that a path or URL can be copied; a word longer than the width sticks out.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import IO

WIDTH = 80
GAP = "  "  # between the columns of a table
_NARROWEST = 16  # a narrower column of prose is unreadable: one word per line
UNBOUNDED = sys.maxsize
_DEEPEST = 32  # a deeper indentation leaves too little of the line


class Whole(str):
    """A value that is not wrapped: it contains a path, which may have spaces, or is a command to paste."""

    __slots__ = ()


def width_of() -> int:
    """Return COLUMNS if it is a number, as shells set it; else 80, as for a pipe."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else WIDTH


def width_of_terminal(stream: IO[str]) -> int:
    """Return the width of the terminal ``stream``; COLUMNS if it is set, as for :func:`width_of`."""
    try:
        return width_of() if os.environ.get("COLUMNS") else os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def narration(line: str, width: int) -> str:
    """Wrap a line of stderr for a terminal, which would break words; what may be copied stays whole.

    That is a quoted command, a next step with an option, and a quotation of code, which is indented further.
    """
    bare = line.lstrip(" ")
    is_command = "`" in line or (bare.startswith("next: ") and (" -" in bare or "gaudi-patch " in bare))
    return line if is_command or len(line) - len(bare) > len(GAP) else prose(line, width)


def prose(text: str, width: int) -> str:
    """Wrap each line of ``text`` that is too long; continuation lines are indented two columns more."""
    return "\n".join(
        part for line in text.split("\n") for part in _break(line, width, " " * (len(line) - len(line.lstrip(" ")) + 2))
    )


def fields(rows: Sequence[tuple[str, str]], width: int) -> str:
    """Return lines ``name: value`` with aligned values."""
    names = max((len(name) for name, _ in rows), default=0) + 1
    hang = " " * (names + 1 if names < _DEEPEST else 4)
    lines = [
        part
        for name, value in rows
        for part in _break(f"{name + ':':<{names}} {value}", UNBOUNDED if isinstance(value, Whole) else width, hang)
    ]
    return "".join(f"{line}\n" for line in lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return rows with columns two spaces apart; if they are too wide, the widest column shrinks first."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = column_widths(columns, rows, width)
    lines = []
    for row in cells:
        broken = [_break(cell, limit, "") for cell, limit in zip(row, widths, strict=True)]
        for number in range(max(map(len, broken))):
            parts = [cell_lines[number] if number < len(cell_lines) else "" for cell_lines in broken]
            lines.append(GAP.join(part.ljust(limit) for part, limit in zip(parts, widths, strict=True)).rstrip())
    return "".join(f"{line}\n" for line in lines)


def column_widths(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[int]:
    """Return column widths for a table that fits ``width``; only very long words are broken."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    return _widths(cells, width - len(GAP) * (len(columns) - 1))


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) <= room:
        return widths
    floors = [  # a word longer than half the line sticks out in its own row; other rows keep their columns
        min(max(_longest_word(column), min(_NARROWEST, most)), room // 2)
        for column, most in zip(zip(*cells, strict=True), widths, strict=True)
    ]
    squeezed = min(_NARROWEST, widths[-1])
    if sum(floors[:-1]) + floors[-1] > room:  # nothing follows that a long word would push away
        floors[-1] = squeezed
    while sum(widths) > room:
        wide = max(
            (number for number in range(len(widths)) if widths[number] > floors[number]),
            key=widths.__getitem__,
            default=None,
        )
        if wide is None:
            break
        widths[wide] -= 1
    return widths


def _longest_word(cells: Sequence[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=0)


def _break(text: str, width: int, hang: str) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(
        text,
        max(width, 1),  # COLUMNS=1, or a table with more columns than fit on the line
        subsequent_indent=hang,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    ) or [""]
