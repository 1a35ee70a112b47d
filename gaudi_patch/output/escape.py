"""Show what is not printable as an escape, so that no text of a target drives a terminal or a CI runner.

Versions, paths and error texts come from targets and from their programs. A newline in one would begin a line of its
own, which a CI runner may take for a command; ESC and bidirectional controls make a terminal show something else.
"""

from __future__ import annotations

import re

_BYTE = range(0xDC80, 0xDD00)  # how Python carries the bytes of a path that are not UTF-8
#: What a GitHub runner takes for a command: `::` where a line begins, `##[` anywhere (ActionCommand.cs).
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[)", re.MULTILINE)


def visible(text: str) -> str:
    """Return ``text`` as one line: each character that ``repr`` would escape is escaped, newlines too."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def visible_lines(text: str) -> str:
    """Return lines of text with all but their newlines and tabs as in :func:`visible`."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        character if character in "\n\t" or character.isprintable() else _escaped(character) for character in text
    )


def no_commands(text: str) -> str:
    """Return lines that a GitHub runner prints, and takes none of for a command."""
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
