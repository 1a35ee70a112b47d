"""The worked examples of CONTRIBUTING.md pass the linters at the place where the page puts them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"^ *```python\n(.*?)^ *```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
]
(CHECK,) = (block for block in BLOCKS if block.startswith("@check("))
(COMMAND,) = (block for block in BLOCKS if "app = command_app()" in block)


def with_check() -> str:
    before, mark, after = (ROOT / "gaudi_patch/doctor/storage.py").read_text().partition("CHECKS = (")
    assert mark
    return f"{before}{CHECK}\n\n{mark}in_tmp, {after}"


@pytest.mark.parametrize(
    ("file", "source"), [("gaudi_patch/doctor/storage.py", with_check()), ("gaudi_patch/commands/where.py", COMMAND)]
)
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_an_example_passes_the_linters(command: list[str], file: str, source: str) -> None:
    words = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", file, "-"]
    done = subprocess.run(words, input=source, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
