"""The command line as a user runs it: a separate process, its exit code, its streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import output_schema
from tests.support.environments import clean_environment

#: A run that takes longer is considered hung.
TIMEOUT = 300


@dataclass(frozen=True)
class Done:
    """The results of a run: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the single object of --json, validated against its published schema."""
        output_schema.hold(self.out)
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def code_of_error(self) -> str:
        """Return the stable code of the only error of --json."""
        (error,) = self.json["errors"]
        return str(error["code"])


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of gaudi-patch, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "gaudi_patch", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a run: no colour, no CI, no settings of the parent's Python."""
    dropped = ("GITHUB_", "NO_COLOR", "FORCE_COLOR", "CI", "SOURCE_DATE_EPOCH")
    kept = {name: value for name, value in clean_environment().items() if not name.startswith(dropped)}
    return kept | {"COLUMNS": "100"} | more


def gaudi_patch(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = TIMEOUT
) -> Done:
    """Run gaudi-patch to its end and return the results; ``timeout`` in seconds."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=environment(**(env or {})),
        cwd=cwd or Path(os.sep),
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def too_wide(text: str, width: int = 80) -> list[str]:
    """Return the lines of ``text`` that exceed ``width``, except those with an unbreakable path or URL."""
    return [line for line in text.splitlines() if len(line) > width and max(map(len, line.split())) <= width // 2]
