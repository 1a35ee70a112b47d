"""The parts of a guide that the tests read: its code blocks, its commands, its text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from gaudi_patch import cli

_BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_ENDS = {"|", "||", "&&", "&", ";", "(", ")"}


class Block(NamedTuple):
    """A code block: the words after its language, and the code."""

    language: str
    words: tuple[str, ...]
    code: str


def blocks(markdown: str) -> list[Block]:
    """Return the code blocks of a guide, in order."""
    found = []
    for match in _BLOCK.finditer(markdown):
        language, *words = match["info"].split() or [""]
        found.append(Block(language, tuple(words), match["code"]))
    return found


def prose(markdown: str) -> str:
    """Return a guide without its code blocks."""
    return _BLOCK.sub("", markdown)


def commands(markdown: str) -> Iterator[list[str]]:
    """Yield the arguments of every `gaudi-patch` command in a guide, in blocks and in the text."""
    for block in blocks(markdown):
        if block.language == "bash":
            yield from _commands(block.code)
    for code in re.findall(r"`([^`\n]+)`", prose(markdown)):
        if code.startswith("gaudi-patch "):
            yield from _commands(code)


def _commands(code: str) -> Iterator[list[str]]:
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        simple: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _ENDS:
                simple.append(word)
                continue
            if simple[:1] == ["gaudi-patch"]:
                yield simple[1:]
            simple = []


def parse(arguments: list[str]) -> None:
    """Parse ``arguments`` with the real command line, without running anything.

    Raises click's usage errors. Arguments that print and exit are removed: --help, and --version before a command.
    """
    words = [word for word in arguments if word != "--help"]
    words = words[1:] if words[:1] == ["--version"] else words
    group: Any = typer.main.get_command(cli.app)
    context = None
    while hasattr(group, "list_commands"):
        context = group.make_context(group.name or "gaudi-patch", [], parent=context, resilient_parsing=True)
        if not words:
            return
        name = words.pop(0)
        command = group.get_command(context, name)
        assert command is not None, f"there is no verb {name!r}"
        group = command
    group.make_context(group.name, words, parent=context)
