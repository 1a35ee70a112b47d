"""A verb's Result -> rich on a terminal, plain lines in a pipe, one JSON object, GitHub annotations.

Data goes to stdout, narration to stderr. rich is imported only when a terminal is there to use it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import IO, Any, NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError

SCHEMA = 1


class Format(str, Enum):
    """What goes to stdout."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class Color(str, Enum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Fields(NamedTuple):
    """Names and values, one a line."""

    rows: Sequence[tuple[str, str]]


class Table(NamedTuple):
    """Rows under a heading; ``state_column`` is coloured by its word."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    state_column: int | None = None


class Diff(NamedTuple):
    """A unified diff, highlighted on a terminal."""

    text: str


class Markdown(NamedTuple):
    """Markdown, rendered on a terminal and left as it is elsewhere."""

    text: str


class Text(NamedTuple):
    """A sentence; ``style`` is one of "", "good", "bad", "next". ``verbatim``: lines that are to stay as they are."""

    text: str
    style: str = ""
    verbatim: bool = False


Block = Fields | Table | Diff | Markdown | Text


@dataclass
class Result:
    """What a verb found or did: ``data`` for machines, ``blocks`` for people."""

    command: str
    exit: Exit = Exit.OK
    data: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[GaudiPatchError] = field(default_factory=list)

    def to_json(self) -> str:
        """The one JSON object of --json: schema-versioned, keys only ever added."""
        document = {
            "schema_version": SCHEMA,
            "command": self.command,
            "status": "error" if self.errors else "ok",
            "exit_code": int(self.exit),
            "data": self.data,
            "warnings": self.warnings,
            "errors": [
                {
                    "code": error.code,
                    "message": error.message,
                    "hint": error.hint,
                    "file": error.file,
                    "line": error.line,
                    "details": error.details,
                }
                for error in self.errors
            ],
        }
        return json.dumps(document, indent=2, sort_keys=True)


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
}


def wants_color(stream: IO[str] | None, color: Color) -> bool:
    """NO_COLOR wins over FORCE_COLOR (https://no-color.org); a dumb terminal gets none."""
    if color is not Color.AUTO:
        return color is Color.ALWAYS
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return _is_terminal(stream) and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def show(result: Result, output: Format, color: Color) -> None:
    """Print ``result``: its data to stdout, its warnings and errors to stderr."""
    if output is Format.JSON:
        _write(sys.stdout, result.to_json() + "\n")
        return
    if output is Format.GITHUB:
        _write(sys.stdout, "".join(github_annotation(error) for error in result.errors))
        _write(sys.stdout, "".join(_workflow_command("warning", {}, text) for text in result.warnings))
        _job_summary(result)
    if result.blocks:
        if output is Format.TEXT and sys.stdout and (wants_color(sys.stdout, color) or _is_terminal(sys.stdout)):
            _rich(result.blocks, color)
        else:
            _write(sys.stdout, "".join(plain(block) for block in result.blocks))
    narrate([f"warning: {text}" for text in result.warnings])
    for error in result.errors:
        narrate(error_lines(error))


def plain(block: Block, width: int | None = None) -> str:
    """The lines of a pipe: no colour, columns two spaces apart, and 80 wide, unless COLUMNS says otherwise."""
    from gaudi_patch.output import wrapping

    width = wrapping.width_of() if width is None else width
    if isinstance(block, Fields):
        return wrapping.fields(block.rows, width)
    if isinstance(block, Table):
        title = f"{wrapping.prose(block.title, width)}\n" if block.title else ""
        return title + wrapping.table(block.columns, block.rows, width)
    text = wrapping.prose(block.text, width) if isinstance(block, Text) and not block.verbatim else block.text
    return text if text.endswith("\n") else f"{text}\n"


def error_lines(error: GaudiPatchError) -> list[str]:
    """What happened, in which file; then the details; then what to do next."""
    lines = [f"error: {error}"]
    lines += [f"  {line}" for line in error.details]
    if error.hint:
        lines.append(f"  next: {error.hint}")
    return lines


def narrate(lines: Sequence[str]) -> None:
    """Write to stderr; a closed or full stderr never changes what a run does."""
    _write(sys.stderr, "".join(f"{line}\n" for line in lines))


def github_annotation(error: GaudiPatchError) -> str:
    """A workflow command that marks the line of the patch in a pull request."""
    properties = {
        "file": error.file,
        "line": str(error.line) if error.line else "",
        "title": f"gaudi-patch {error.code}",
    }
    return _workflow_command("error", properties, "\n".join([error.message, *error.details, error.hint]).rstrip())


def _workflow_command(kind: str, properties: dict[str, str], message: str) -> str:
    # Escapes: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    listed = ",".join(
        f"{name}={data(value).replace(':', '%3A').replace(',', '%2C')}" for name, value in properties.items() if value
    )
    return f"::{kind} {listed}::{data(message)}\n" if listed else f"::{kind}::{data(message)}\n"


def _job_summary(result: Result) -> None:
    """Append the tables to the summary page of the job, where there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    lines = [f"### gaudi-patch {result.command}: exit {int(result.exit)}\n"]
    for block in result.blocks:
        if isinstance(block, Table):
            lines += ["", "| " + " | ".join(block.columns) + " |", "|" + " --- |" * len(block.columns)]
            lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in block.rows]
        else:
            lines += ["", "```", plain(block).rstrip(), "```"]
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
    except OSError as error:
        narrate([f"warning: could not write the job summary: {error}"])


def _rich(blocks: Sequence[Block], color: Color) -> None:
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit here, with a code of its own

    force = True if wants_color(sys.stdout, color) else None
    console = _Console(force_terminal=force, no_color=not wants_color(sys.stdout, color), highlight=False, markup=False)
    try:
        for block in blocks:
            console.print(_renderable(block), soft_wrap=isinstance(block, Text))
            if isinstance(block, Table):
                console.print()
    except OSError:
        _forget(sys.stdout)


def _renderable(block: Block) -> Any:  # noqa: ANN401 - rich's own type is a union of protocols
    if isinstance(block, Diff):
        from rich.syntax import Syntax

        return Syntax(block.text.rstrip("\n"), "diff", theme="ansi_dark", background_color="default", word_wrap=False)
    if isinstance(block, Markdown):
        import rich.markdown

        return rich.markdown.Markdown(block.text, code_theme="ansi_dark", hyperlinks=False)
    if isinstance(block, Text):
        import rich.text

        return rich.text.Text(block.text.rstrip("\n"), style=STYLES.get(block.style, ""))
    import rich.table
    import rich.text

    if isinstance(block, Fields):
        grid = rich.table.Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in block.rows:
            grid.add_row(rich.text.Text(name), rich.text.Text(value, style=STYLES.get(value, "")))
        return grid
    from rich import box

    # As wide as the same table in a pipe: two spaces between the columns.
    table = rich.table.Table(
        title=block.title or None, box=box.SIMPLE_HEAD, title_justify="left", show_edge=False, padding=(0, 1, 0, 0)
    )
    for name in block.columns:
        table.add_column(name, overflow="fold")
    for row in block.rows:
        cells = [
            rich.text.Text(str(cell), style=STYLES.get(str(cell), "") if index == block.state_column else "")
            for index, cell in enumerate(row)
        ]
        table.add_row(*cells)
    return table


def _write(stream: IO[str] | None, text: str) -> None:
    """Write and flush; a stream that is closed, gone or full is as good as quiet and changes no exit code."""
    if stream is None:  # closed by the parent: `>&-`
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # LANG=C and a name that is not ASCII
            stream.write(text.encode("ascii", "backslashreplace").decode())
        stream.flush()
    except (OSError, ValueError):
        _forget(stream)


def _forget(stream: IO[str]) -> None:
    """`gaudi-patch show | head` closes the pipe, a log disk is full: keep Python from complaining at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
        stream.flush()  # what is left in its buffer
    except (OSError, ValueError):
        return  # it has no descriptor, or is closed: nothing is left to be flushed at exit
    finally:
        os.close(null)
