"""Find the line of each key and array item in a TOML file; tomllib does not report lines."""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Keys and indices from the top of the document: ("series", 2, "patches", 0).
Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}'  # multi-line strings
    r'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}=,\n]|[^\s"\'#\[\]{}=,]+|[ \t\r]+',
    re.DOTALL,
)


def positions(text: str) -> dict[Path, int]:
    """Return the line, counted from 1, of each table, key and array item. ``text`` must be valid TOML.

    Keys inside inline tables are left out.
    """
    return _Scanner(text).found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # arrays of tables, and the index of the newest
        self._tokens = [(match[0], text.count("\n", 0, match.start()) + 1) for match in _TOKEN.finditer(text)]
        self._at = 0
        prefix: Path = ()
        while (part := self._next()) is not None:
            if part == "[":
                prefix = self._header()
            elif part.strip() and not part.startswith("#"):
                self._pair(prefix)

    def _next(self) -> str | None:
        if self._at == len(self._tokens):
            return None
        self._at += 1
        return self._tokens[self._at - 1][0]

    @property
    def _line(self) -> int:
        """Return the line of the last token consumed."""
        return self._tokens[self._at - 1][1]

    def _until(self, end: str) -> str:
        """Return the text from the last token consumed up to ``end``; consume ``end`` but leave it out."""
        parts = [self._tokens[self._at - 1][0]]
        while (part := self._next()) is not None and part != end:
            parts.append(part)
        return "".join(parts)

    def _header(self) -> Path:
        line = self._line
        text = self._until("\n")
        keys = _keys(text)
        prefix: Path = ()
        for key in keys[:-1]:
            prefix = (*prefix, key)
            if prefix in self._tables:
                prefix = (*prefix, self._tables[prefix])
        prefix = (*prefix, keys[-1])
        self.found.setdefault(prefix, line)
        if text.startswith("[["):
            index = self._tables.get(prefix, -1) + 1
            self._tables[prefix] = index
            prefix = (*prefix, index)
            self.found[prefix] = line
        return prefix

    def _pair(self, prefix: Path) -> None:
        line = self._line
        path = (*prefix, *_keys(f"{self._until('=')}= 0"))
        self.found[path] = line
        depth, index, fresh = 0, 0, True
        while (part := self._next()) is not None and (part != "\n" or depth):
            if depth == 1 and fresh and part.strip() and part not in "]," and not part.startswith("#"):
                item = (*path, index)
                self.found[item] = self._line
                fresh = False
            depth += (part in "[{") - (part in "]}")
            if part == "," and depth == 1:
                index, fresh = index + 1, True


def _keys(statement: str) -> tuple[str, ...]:
    """Return the keys in a header or a key-value pair, outermost first."""
    value: Any = tomllib.loads(statement)
    keys = []
    while isinstance(value, dict | list) and value:
        if isinstance(value, dict):
            (key, value), *_ = value.items()
            keys.append(key)
        else:
            value = value[0]
    return tuple(keys)
