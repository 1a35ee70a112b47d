"""Stand-ins for a target's interpreter: they answer gaudi_patch/target/ask.py, or misbehave."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

#: After it, the shell's $2 is the descriptor for the answer, $3 that of the question or "-", $4 the script.
SKIP_TO_SCRIPT = 'while [ "${1##*/}" != answer.py ]; do shift; done'


def answering(answer: object, *, first: str = "", last: str = "") -> str:
    """Return a shell script that sends ``answer``; ``first`` and ``last`` are lines run before and after."""
    line = shlex.quote(json.dumps({"answer": answer}))
    return f"#!/bin/sh\n{SKIP_TO_SCRIPT}\n{first}\nprintf '%s\\n' {line} >/dev/fd/$2\n{last}\n"


def program(path: Path, text: str) -> Path:
    """Make an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
