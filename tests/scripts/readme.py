"""The README's sample of output: the commands' output on a real LMCache, with the emulated HPU.

    python -m tests.scripts.readme [--write]

Paths become those of an image; nothing else is changed. ``tests/integration/test_readme.py`` checks the sample.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import environments
from tests.support.cli import command, environment

README = Path(__file__).resolve().parents[2] / "README.md"
RELEASE = "0.5.6"
#: The commands of the sample, each with the arguments that the README shows.
COMMANDS = (
    "check --python /opt/venv/bin/python",
    "apply --python /opt/venv/bin/python --report /etc/gaudi-patch.json",
    "check --python /opt/venv/bin/python --against /etc/gaudi-patch.json",
    "rollback --python /opt/venv/bin/python",
)
_BLOCK = re.compile(r"(<!-- sample -->\n```console\n)(.*?)(```\n)", re.DOTALL)


def sample(folder: Path, smoke: str = "") -> str:
    """Return the commands with their output; ``folder`` is an empty working directory.

    ``smoke`` are the levels that `apply` runs, instead of its default levels.
    """
    copy = environments.overlay_copy(RELEASE, folder)
    report = folder / "gaudi-patch.json"
    python = "/opt/venv/bin/python"
    lines = []
    for shown in COMMANDS:
        typed = shown.replace(python, str(copy.python)).replace("/etc/gaudi-patch.json", str(report))
        more = ["--smoke", smoke] if smoke and shown.startswith("apply") else []
        done = subprocess.run(
            command(*typed.split(), *more), capture_output=True, text=True, env=environment(COLUMNS="80"), check=False
        )
        if done.returncode not in (0, 10):
            raise SystemExit(f"{shown}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        said = done.stdout.replace(str(copy.python), python).replace(str(copy.prefix), "/opt/venv")
        said = said.replace(str(report), "/etc/gaudi-patch.json")
        lines += [f"$ gaudi-patch {shown}", *said.splitlines(), f"[exit {done.returncode}]", ""]
    return "\n".join(lines[:-1]) + "\n"


def shown() -> str:
    """Return the README's sample."""
    found = _BLOCK.search(README.read_text(encoding="utf-8"))
    assert found is not None, "README.md has no block marked <!-- sample -->"
    return found[2]


def main() -> None:
    """Print the sample, or write it into the README."""
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-readme-") as scratch:
        text = sample(Path(scratch))
    if sys.argv[1:] == ["--write"]:
        old = README.read_text(encoding="utf-8")
        README.write_text(_BLOCK.sub(lambda found: found[1] + text + found[3], old), encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
