"""Measure help, completion and checks of gaudi-patch and of pip, uv, pre-commit and git, and print a Markdown table.

    python -m tests.scripts.beside [RUNS]

hyperfine measures the times (Debian: apt-get install hyperfine). All programs are freshly installed into a temporary
environment, with their bytecode, and the checks examine one target: LMCache without its dependencies. If root runs it,
the programs get priority over all others (chrt --fifo), so that a busy machine affects their times little.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Table, plain

RUNS = 30
REPOSITORY = Path(__file__).resolve().parents[2]
LMCACHE = "lmcache==0.5.6"
COLUMNS = ("what", "command", "time", "spread", "CPU time")


class Program(NamedTuple):
    """A command line to measure: its purpose for a user, the displayed line, its words and its variables."""

    what: str
    shown: str
    words: Sequence[str]
    variables: Mapping[str, str] = {}
    #: The expected exit code of a complete run.
    exit: int = 0


def programs(tools: Path, target: Path) -> list[Program]:
    """Return the programs to measure: ``tools`` is a directory of programs, ``target`` an interpreter with LMCache."""

    def tool(what: str, *words: str, code: int = 0, **variables: str) -> Program:
        shown = " ".join(word.replace(str(target), "TARGET").replace(f"{REPOSITORY}/", "") for word in words)
        shown = f"{variables['COMP_WORDS']}<TAB>" if "COMP_WORDS" in variables else shown
        return Program(what, shown, [str(tools / words[0]), *words[1:]], variables, code)

    pending = int(Exit.PENDING)
    half = {"COMP_WORDS": "gaudi-patch roll", "COMP_CWORD": "1"}
    half_pip = {"COMP_WORDS": "pip uninst", "COMP_CWORD": "1", "PIP_AUTO_COMPLETE": "1"}
    git = shutil.which("git") or "git"
    return [
        Program("start", "python -I -c pass", [str(tools / "python"), "-I", "-c", "pass"]),
        tool("help", "gaudi-patch", "--help"),
        tool("help", "gaudi-patch", "apply", "--help"),
        tool("help", "pip", "--help"),
        tool("help", "pip", "install", "--help"),
        tool("help", "pre-commit", "--help"),
        tool("help", "uv", "--help"),
        Program("help", "git -h", [git, "-h"]),
        tool("completion", "gaudi-patch", _GAUDI_PATCH_COMPLETE="complete_bash", **half),
        tool("completion", "pip", code=1, **half_pip),  # pip exits with 1 after its answer
        tool("check", "gaudi-patch", "check", "--python", str(target), code=pending),
        tool("check", "gaudi-patch", "check", "--fast", "--python", str(target), code=pending),
        tool("check", "pip", "--python", str(target), "check", code=1),  # dependencies are deliberately missing
        tool("check", "uv", "pip", "check", "--python", str(target), code=1),
        tool("check", "pre-commit", "validate-config", str(REPOSITORY / ".pre-commit-config.yaml")),
        Program("check", "git status --short", [git, "-C", str(REPOSITORY), "status", "--short"]),
    ]


def install(scratch: Path) -> list[Program]:
    """Create the environment of the programs and the target below ``scratch``."""
    tools, target = scratch / "tools", scratch / "target"
    for folder in (tools, target):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    quiet = ["-m", "pip", "install", "--quiet"]
    subprocess.run([str(tools / "bin/python"), *quiet, str(REPOSITORY), "uv", "pre-commit"], check=True, env=clean())
    subprocess.run([str(target / "bin/python"), *quiet, "--no-deps", LMCACHE], check=True, env=clean())
    return programs(tools / "bin", target / "bin/python")


def measure(program: Program, runs: int, scratch: Path) -> tuple[float, float, float]:
    """Return the mean wall-clock seconds, their standard deviation, and the mean CPU time of a run.

    Raises SystemExit if the program ends with another code than expected: an early failure is quick.
    """
    env = clean() | dict(program.variables)
    done = subprocess.run(program.words, env=env, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode != program.exit:
        raise SystemExit(f"{program.shown}: exit {done.returncode}, not {program.exit}\n{done.stdout}{done.stderr}")
    out = scratch / "times.json"
    options = ["-N", "--style", "none", "--warmup", "3", "--runs", str(runs), "--export-json", str(out)]
    options += ["--ignore-failure"] if program.exit else []
    line = ["hyperfine", *options, _quoted(program.words)]
    subprocess.run([*_first(), *line], env=env, cwd=scratch, stdout=subprocess.DEVNULL, check=True)
    (result,) = json.loads(out.read_text())["results"]
    return result["mean"], result["stddev"] or 0.0, result["user"] + result["system"]


def row(program: Program, seconds: tuple[float, float, float]) -> tuple[str, ...]:
    """Return the line of the table."""
    mean, spread, cpu = (f"{one * 1000:.0f} ms" for one in seconds)
    return program.what, f"`{program.shown}`", mean, f"± {spread}", cpu


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return the table as printed in docs/benchmarks.md."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(runs: int = RUNS) -> None:
    """Install, measure, and print."""
    if shutil.which("hyperfine") is None:
        raise SystemExit("hyperfine is not installed: apt-get install hyperfine")
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-beside-") as name:
        scratch = Path(name)
        chosen = install(scratch)
        print(f"{runs} runs each, load {os.getloadavg()[0]:.1f}, {' '.join(_first()) or 'at the usual priority'}")
        rows = [row(program, measure(program, runs, scratch)) for program in chosen]
    print(plain(Table(COLUMNS, rows)))
    print(markdown(rows), end="")


def _first() -> list[str]:
    first = ["chrt", "--fifo", "10"]
    usable = shutil.which("chrt") and subprocess.run([*first, "true"], capture_output=True, check=False).returncode == 0
    return first if usable else []


def clean() -> dict[str, str]:
    """Return the environment without variables that change Python's start, so that bytecode is used as for a user."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _quoted(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
