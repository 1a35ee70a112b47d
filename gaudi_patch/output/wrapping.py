"""Plain text that fits a width: lines break at spaces only, and go on indented.

A word is never broken, so that a path or URL can be copied: one that is longer than the width sticks out.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

WIDTH = 80
GAP = "  "  # between the columns of a table
_NARROWEST = 16  # a column of prose is not squeezed further: a word a line is no help
UNBOUNDED = sys.maxsize
_DEEPEST = 32  # what hangs deeper leaves too little of the line


class Whole(str):
    """A value that stays on its line: it holds a path, which may have spaces, or is a command to be pasted."""

    __slots__ = ()


def width_of() -> int:
    """COLUMNS where it is a number, as the shells give it; else 80, as for a pipe."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else WIDTH


def prose(text: str, width: int) -> str:
    """Return each line of ``text`` that is too long, broken; what follows is indented as it is, and two more."""
    return "\n".join(
        part for line in text.split("\n") for part in _break(line, width, " " * (len(line) - len(line.lstrip(" ")) + 2))
    )


def fields(rows: Sequence[tuple[str, str]], width: int) -> str:
    """``name: value`` a line, the values one below the other."""
    names = max((len(name) for name, _ in rows), default=0) + 1
    hang = " " * (names + 1 if names < _DEEPEST else 4)
    lines = [
        part
        for name, value in rows
        for part in _break(f"{name + ':':<{names}} {value}", UNBOUNDED if isinstance(value, Whole) else width, hang)
    ]
    return "".join(f"{line}\n" for line in lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns two spaces apart; where they are too wide, the widest is made narrower first."""
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
    """Return the columns' widths in a table that is to fit into ``width``; no word but a very long one is broken."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    return _widths(cells, width - len(GAP) * (len(columns) - 1))


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) <= room:
        return widths
    floors = [  # a word as long as half the line sticks out in its own row; the other rows stay in their columns
        min(max(_longest_word(column), min(_NARROWEST, most)), room // 2)
        for column, most in zip(zip(*cells, strict=True), widths, strict=True)
    ]
    squeezed = min(_NARROWEST, widths[-1])
    if sum(floors[:-1]) + floors[-1] > room:  # nothing stands behind it that a long word would push away
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
        max(width, 1),  # COLUMNS=1, or a table with more columns than the line has room for
        subsequent_indent=hang,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    ) or [""]
