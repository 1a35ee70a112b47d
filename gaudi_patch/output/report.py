"""Show a Result: data on stdout, narration on stderr. No failure here changes what a run has done.

rich is imported only if there is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from gaudi_patch.output import wrapping
from gaudi_patch.output.escape import no_commands, visible
from gaudi_patch.output.plain import all_plain, error_lines, plain
from gaudi_patch.output.result import (
    Block,
    Color,
    Diff,
    Fields,
    Format,
    Markdown,
    Notice,
    Preformatted,
    Result,
    Table,
    Text,
)
from gaudi_patch.output.streams import is_dumb, is_terminal, wants_color, write
from gaudi_patch.output.typed import as_typed

__all__ = [
    "Block",
    "Color",
    "Diff",
    "Fields",
    "Format",
    "Markdown",
    "Notice",
    "Preformatted",
    "Result",
    "Table",
    "Text",
    "error_lines",
    "narrate",
    "plain",
    "show",
    "wants_color",
]


#: How a line on stderr begins, and its colour on a terminal as an ANSI attribute.
_WORDS = {"error:": "1;31", "warning:": "33", "next:": "1"}


def show(result: Result, output: Format, color: Color) -> str:
    """Print ``result``: its data to stdout, its warnings and errors to stderr.

    Never raises. Return why the JSON object was not written completely; "" if it was, or if it was not requested.
    Only lost JSON counts as a failure, because its reader has nothing else.
    """
    if output is Format.JSON:
        problem = _attempt(lambda: write(sys.stdout, result.to_json() + "\n"), repr)
        if problem:
            narrate([f"error: the JSON was not written to standard output: {problem}"])
            _narrate_result(result, runner=False, color=Color.NEVER)
        return problem
    _attempt(lambda: write(sys.stdout, _text(result, output, color)), lambda error: _without_layout(result, error))
    if output is Format.GITHUB:
        from gaudi_patch.output import github

        if problem := _attempt(lambda: github.append_summary(result), repr):
            narrate([f"warning: could not write the job summary: {problem}"])
    _narrate_result(result, runner=output is Format.GITHUB, color=color)
    return ""


def narrate(lines: Sequence[str], *, runner: bool = False, colored: bool | None = None) -> None:
    """Write to stderr with everything unprintable escaped; a closed or full stderr changes nothing.

    ``runner``: a GitHub runner reads the lines, as where GITHUB_ACTIONS is set. ``colored``: colour the words that
    begin an error, a warning or a next step; if omitted, as chosen for the run.
    """
    colored = wants_color(sys.stderr) if colored is None else colored
    shown = list(map(visible, lines))
    if sys.stderr and is_terminal(sys.stderr):
        width = wrapping.width_of_terminal(sys.stderr)
        shown = [wrapping.narration(line, width) for line in shown]
    text = "".join(f"{_colored(line) if colored else line}\n" for line in shown)
    write(sys.stderr, no_commands(text) if runner or os.environ.get("GITHUB_ACTIONS") else text)


def _colored(line: str) -> str:
    bare = line.lstrip(" ")
    for word, code in _WORDS.items():
        if bare.startswith(word):
            return f"{line[: len(line) - len(bare)]}\x1b[{code}m{word}\x1b[0m{bare[len(word) :]}"
    return line


def _attempt(run: Callable[[], str], otherwise: Callable[[Exception], str]) -> str:
    try:
        return run()
    except Exception as error:  # a failure to print must not change the result
        return otherwise(error)


def _narrate_result(result: Result, *, runner: bool, color: Color) -> None:
    colored = not runner and wants_color(sys.stderr, color)
    lines = [f"warning: {as_typed(text)}" for text in result.warnings if text not in result.said]
    for error in result.errors:
        lines += error_lines(error)
    narrate(lines, runner=runner, colored=colored)


def _text(result: Result, output: Format, color: Color) -> str:
    if output is Format.GITHUB:
        from gaudi_patch.output import github

        return github.workflow_commands(result) + no_commands(all_plain(result.blocks))
    if output is Format.GITLAB:
        from gaudi_patch.output import gitlab

        return gitlab.section(result)
    # A dumb terminal gets lines of text alone: a screen reader would read the rules of a table aloud.
    laid_out = sys.stdout and (wants_color(sys.stdout, color) or (is_terminal(sys.stdout) and not is_dumb()))
    if result.blocks and laid_out:
        try:
            from gaudi_patch.output import terminal

            return terminal.rendered(result.blocks, color)
        except Exception as error:  # rich cannot handle this terminal; plain text works on any
            narrate([f"warning: shown without layout: {type(error).__name__}: {error}"])
    text = all_plain(result.blocks)
    return no_commands(text) if os.environ.get("GITHUB_ACTIONS") else text


def _without_layout(result: Result, fault: Exception) -> str:
    """Print the blocks without wrapping: the last resort if the layout of plain text failed too."""
    narrate([f"warning: shown without layout: {type(fault).__name__}: {fault}"])
    return write(sys.stdout, "".join(plain(block, wrapping.UNBOUNDED) for block in result.blocks))
