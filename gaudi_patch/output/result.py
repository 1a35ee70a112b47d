"""The result of a command in the two forms in which it is shown: JSON and blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.escape import whole

SCHEMA = 1


class Format(str, Enum):
    """The form of the output on stdout."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"


class Color(str, Enum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Fields(NamedTuple):
    """Names and values, one per line."""

    rows: Sequence[tuple[str, str]]


class Table(NamedTuple):
    """Rows under a heading; cells of ``state_column`` are coloured by their word."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    state_column: int | None = None


class Diff(NamedTuple):
    """A unified diff, highlighted on a terminal; its lines are neither wrapped nor cropped."""

    text: str


class Markdown(NamedTuple):
    """Markdown, rendered on a terminal and printed literally elsewhere."""

    text: str


class Text(NamedTuple):
    """A sentence; newlines are layout at its ends only.

    ``style`` is one of "", "good", "bad", "pending", "next". A ``verbatim`` text contains a path and is not wrapped.
    Nor is a text that begins with "next: ": a command broken into two lines does not run when pasted.
    """

    text: str
    style: str = ""
    verbatim: bool = False


class Preformatted(NamedTuple):
    """Lines printed literally: a file, a drawing."""

    text: str


Block = Fields | Table | Diff | Markdown | Text | Preformatted


class Notice(NamedTuple):
    """A warning, not an error, for the pages of a CI service: a stable code and a message."""

    code: str
    message: str


@dataclass
class Result:
    """What a command found or did: ``data`` for machines, ``blocks`` for people, ``notices`` for CI services.

    ``said`` are the ``warnings`` that the blocks already contain; text output does not repeat them.
    """

    command: str
    exit: Exit = Exit.OK
    data: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[GaudiPatchError] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the one JSON object of --json, described by ``schema.json``. Keys are only ever added."""
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
        text = json.dumps(whole(document), indent=2, sort_keys=True, allow_nan=False)
        # The same JSON string, but a GitHub runner, which takes `##[` anywhere in a line as a command, ignores it.
        return text.replace("##[", "#\\u0023[")
