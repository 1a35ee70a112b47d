"""Helpers of this directory's tests: command lines."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from typer.testing import CliRunner

from gaudi_patch import cli
from tests.support import output_schema
from tests.support.cli import command, environment
from tests.support.tiny import Tiny


def arguments(target: Tiny, verb: str, *more: str) -> list[str]:
    quiet = ["--no-smoke"] if verb == "apply" else []
    return [verb, "--path", str(target.site), "--manifest", str(target.manifest.directory), *quiet, *more]


def invoke(target: Tiny, verb: str, *more: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, stdout, stderr."""
    done = CliRunner().invoke(cli.app, arguments(target, verb, *more))
    return done.exit_code, done.stdout, done.stderr


def document(target: Tiny, verb: str, *more: str) -> dict[str, Any]:
    code, out, err = invoke(target, verb, "--json", *more)
    output_schema.hold(out)
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code
    assert err == ""
    return found


def coloured(text: str) -> bool:
    """Return whether ``text`` contains a colour; bold does not count (https://no-color.org)."""
    return re.search(r"\x1b\[(\d+;)*[349]\d", text) is not None


def shell(line: str, target: Tiny, verb: str) -> subprocess.CompletedProcess[str]:
    """Run a command within a shell line, which refers to it as "$@"."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *command(*arguments(target, verb))],
        capture_output=True, text=True, env=environment(), timeout=120, check=False,
    )  # fmt: skip
