"""Escape unprintable characters, so that no text from a target controls a terminal or a CI runner.

Versions, paths and error texts come from targets and from their programs. A newline would start a new line, which a
CI runner may take for a command; ESC and bidirectional controls change what a terminal shows.
"""

from __future__ import annotations

import re

_BYTE = range(0xDC80, 0xDD00)  # how Python represents the bytes of a path that are not UTF-8
#: What a GitHub runner takes as a command: `::` where a line begins, `##[` anywhere (ActionCommand.cs).
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[)", re.MULTILINE)


def visible(text: str) -> str:
    """Return ``text`` as one line, with every character escaped that ``repr`` would escape, newlines too."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def visible_lines(text: str) -> str:
    """Return lines of text escaped as in :func:`visible`, except newlines and tabs."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        character if character in "\n\t" or character.isprintable() else _escaped(character) for character in text
    )


def no_commands(text: str) -> str:
    """Return lines that a GitHub runner prints without taking any as a command."""
    return _COMMAND.sub(lambda match: f"{match[1]}\\x3a" if match[1] is not None else "#\\x23", text)


def whole(value: object) -> object:
    r"""Return a JSON value without lone surrogates, which strict parsers refuse: ``\xff`` for an undecodable byte."""
    if isinstance(value, str):
        return (
            value
            if value.isascii()
            else "".join(_escaped(character) if _is_lone(character) else character for character in value)
        )
    if isinstance(value, dict):
        return {whole(str(key)): whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [whole(inner) for inner in value]
    return value


def _is_lone(character: str) -> bool:
    return 0xD800 <= ord(character) < 0xE000


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if code in _BYTE else character.encode("unicode_escape").decode("ascii")
