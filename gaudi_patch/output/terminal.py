"""Blocks rendered by rich for a terminal. Only this module imports rich, so only a terminal pays for it.

Output is rendered into memory first: if rich fails, nothing has been printed, and plain text replaces it.
"""

from __future__ import annotations

import io
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

import rich.markdown
import rich.table
import rich.text
from rich import box
from rich.console import Console

from gaudi_patch.output import wrapping
from gaudi_patch.output.plain import escaped, sentence
from gaudi_patch.output.result import Block, Color, Diff, Fields, Markdown, Preformatted, Table, Text
from gaudi_patch.output.streams import is_terminal, wants_color
from gaudi_patch.output.wrapping import Whole

STYLES = {
    "pristine": "cyan",
    "patched": "green",
    "passed": "green",
    "ok": "green",
    "yes": "green",
    "modified": "bold red",
    "missing": "bold red",
    "failed": "bold red",
    "failure": "bold red",
    "partial": "bold red",
    "refused": "red",
    "skipped": "yellow",
    "warning": "yellow",
    "outdated": "yellow",
    "unknown": "yellow",
    "good": "green",
    "bad": "bold red",
    "next": "bold",
    "pending": "bold cyan",
}
_DIFF_STYLES = (
    (("diff ", "index ", "--- ", "+++ ", "new file ", "deleted file ", "old mode ", "new mode "), "bold"),
    (("@@",), "cyan"),
    (("+",), "green"),
    (("-",), "red"),
)
_NARROWEST = 20  # columns: below this rich drops letters, where a terminal would break the line
#: A block of code, also indented in a list.
_FENCE = re.compile(r"^(?P<indent> *)```[^\n]*\n(?P<code>.*?)^(?P=indent)```[^\n]*\n?", re.MULTILINE | re.DOTALL)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class _Memory(io.StringIO):
    """An in-memory file for rich, with the encoding of the final stream."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def rendered(blocks: Sequence[Block], color: Color) -> str:
    """Return text with escape sequences that shows ``blocks`` on stdout's terminal."""
    memory = _Memory(getattr(sys.stdout, "encoding", None) or "utf-8")
    colored = wants_color(sys.stdout, color)
    console = Console(
        file=memory,
        force_terminal=colored or is_terminal(sys.stdout),
        no_color=not colored,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.width = max(console.width, _NARROWEST)
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        _print(console, escaped(block))
        if isinstance(block, Table) and after not in (None, Text("")):
            console.print()
    return memory.getvalue()


def _print(console: Console, block: Block) -> None:
    if isinstance(block, Markdown):
        _print_markdown(console, block.text)
    elif isinstance(block, Text):
        lines = sentence(block, console.width).rstrip("\n").split("\n")
        _print_lines(console, lines, lambda line: STYLES.get(block.style, ""))
    elif isinstance(block, Diff | Preformatted):
        lines = block.text.rstrip("\n").split("\n")
        _print_lines(console, lines, _style_of if isinstance(block, Diff) else lambda line: "")
    elif isinstance(block, Fields):
        _print_fields(console, block)
    else:
        console.print(_table(block, console.width))


def _print_lines(console: Console, lines: Iterable[str], style: Callable[[str], str]) -> None:
    """Print lines without wrapping: the terminal wraps them, and a copied line is complete."""
    for line in lines:
        console.print(rich.text.Text(line, style=style(line)), soft_wrap=True)


def _style_of(line: str) -> str:
    return next((style for starts, style in _DIFF_STYLES if line.startswith(starts)), "")


def _print_markdown(console: Console, text: str) -> None:
    """Print Markdown; code keeps its lines so that it can be copied, whereas rich would wrap it."""
    begun = False
    for part, is_code in _parts(text):
        with console.capture() as captured:
            if is_code:
                _print_lines(console, part.rstrip("\n").split("\n"), lambda line: "cyan")
            else:
                console.print(rich.markdown.Markdown(part, code_theme="ansi_dark", hyperlinks=False))
        shown = captured.get() if is_code else _single_spaced(captured.get())
        if shown.strip():
            console.file.write(f"\n{shown}" if begun else shown)
            begun = True


def _single_spaced(text: str) -> str:
    """Return lines with one blank line in place of several, and none at either end."""
    kept: list[str] = []
    for line in text.split("\n"):
        blank = not _ANSI.sub("", line).strip()
        if not blank or (kept and kept[-1]):
            kept.append("" if blank else line)
    return "\n".join(kept).rstrip("\n") + "\n" if kept else ""


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Split Markdown into text and fenced code."""
    start = 0
    for match in _FENCE.finditer(text):
        yield text[start : match.start()], False
        yield textwrap.dedent(match["code"]), True
        start = match.end()
    yield text[start:], False


def _print_fields(console: Console, block: Fields) -> None:
    """Print names and values in two columns; the terminal wraps a value that must not be broken."""
    widest = max((len(name) for name, _ in block.rows), default=0)
    for name, value in block.rows:
        style = STYLES.get(value, "")
        if isinstance(value, Whole):
            line = rich.text.Text.assemble((name.ljust(widest), "bold"), "  ", (value, style))
            console.print(line, soft_wrap=True)
            continue
        row = rich.table.Table.grid(padding=(0, 2))
        narrow = widest * 2 >= console.width  # otherwise no room remains for the values
        row.add_column(style="bold", no_wrap=not narrow, overflow="fold", min_width=None if narrow else widest)
        row.add_column(overflow="fold")
        row.add_row(rich.text.Text(name), rich.text.Text(value, style=style))
        console.print(row)


def _table(block: Table, width: int) -> rich.table.Table:
    # As wide as the same table in a pipe: two spaces between columns, plus one that rich adds after the last.
    widths = wrapping.column_widths(block.columns, block.rows, width - 1)
    fits = sum(widths) + len(wrapping.GAP) * (len(widths) - 1) < width
    table = rich.table.Table(
        title=rich.text.Text(block.title) if block.title else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name, wide in zip(block.columns, widths, strict=True):
        # By default rich narrows a column below its longest word, and breaks a setting's name in two.
        table.add_column(rich.text.Text(name), overflow="fold", width=wide if fits else None)
    for row in block.rows:
        cells = [
            rich.text.Text(str(cell), style=STYLES.get(str(cell), "") if index == block.state_column else "")
            for index, cell in enumerate(row)
        ]
        table.add_row(*cells)
    return table
