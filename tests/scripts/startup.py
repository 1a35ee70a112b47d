"""Measure the start-up cost of gaudi-patch, as a multiple of an empty typer program, next to other programs.

    python -m tests.scripts.startup [RUNS]

gaudi-patch is installed into a temporary environment as users install it, with the bytecode that pip writes. A checkout
has none at first, and none at all under PYTHONDONTWRITEBYTECODE: every run would compile gaudi-patch again, but not
typer. No time is asserted anywhere, since timings on a shared machine are unreliable. The programs run in turn, so that
a drift of the machine affects all equally. The smallest CPU times of each are compared, including child processes.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.cli import COMMANDS
from gaudi_patch.output.report import Table, plain
from gaudi_patch.series.manifest import load
from tests.scripts.beside import REPOSITORY, clean

RUNS = 15
#: The promised multiples of the empty program.
BUDGETS = dict.fromkeys(
    (f"gaudi-patch {what}" for what in ("check", "list", "show VERSION", "--help", "--version", "completion")), 2.0
)
EMPTY = "empty typer program"
_SOURCE = """
import typer
app = typer.Typer()
@app.command()
def check() -> None: ...
@app.command()
def other() -> None: ...
app()
"""

CREATING = "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n"


class Program(NamedTuple):
    """A command line, its working directory, and its variables."""

    name: str
    command: Sequence[str]
    folder: Path
    variables: Mapping[str, str] = {}


class Timing(NamedTuple):
    """The smallest CPU seconds, and their multiple of the empty program's."""

    name: str
    seconds: float
    times_empty: float
    budget: float | None


def main(runs: int = RUNS) -> None:
    """Measure all programs available here, and print a table."""
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-startup-") as name:
        chosen, missing = programs(Path(name))
        timings = measure(chosen, runs)
    rows = [
        (
            one.name,
            f"{one.seconds * 1000:.0f} ms",
            f"{one.times_empty:.2f}x",
            f"{one.budget:g}x" if one.budget else "",
        )
        for one in timings
    ]
    print(plain(Table(("program", "CPU time", "of empty", "budget"), rows, f"Start-up, {runs} runs each")), end="")
    if missing:
        print(f"not installed here: {', '.join(missing)}")


def programs(scratch: Path) -> tuple[list[Program], list[str]]:
    """Return the programs to compare, with their files in ``scratch``; and the names of those not installed."""
    tools = install(scratch / "tools")
    python = str(tools / "python")
    empty = scratch / "empty.py"
    empty.write_text(_SOURCE, encoding="utf-8")
    site = stand_in(scratch / "site-packages")
    ours, newest = [str(tools / "gaudi-patch")], load().series[0].versions.removeprefix("==")
    completing = {"_GAUDI_PATCH_COMPLETE": "complete_bash", "COMP_WORDS": "gaudi-patch ap", "COMP_CWORD": "1"}
    found = [
        Program(EMPTY, [python, str(empty), "check"], scratch),
        Program("gaudi-patch check", [*ours, "check", "--path", str(site)], scratch),
        Program("gaudi-patch list", [*ours, "list"], scratch),
        Program("gaudi-patch show VERSION", [*ours, "show", newest], scratch),
        Program("gaudi-patch --help", [*ours, "--help"], scratch),
        # It runs the target's interpreter: one without the scripts that some tools put before it on PATH (pyenv).
        Program("gaudi-patch --version", [*ours, "--version"], scratch, {"VIRTUAL_ENV": str(tools.parent)}),
        Program("gaudi-patch completion", ours, scratch, completing),
        *(Program(f"gaudi-patch {verb} --help", [*ours, verb, "--help"], scratch) for verb in COMMANDS),
    ]
    # A patch that only creates a file applies to an empty directory, so git has no complaint.
    creating = scratch / "creating.patch"
    creating.write_text(CREATING, encoding="utf-8")
    others = (
        ("git", "git apply --check", ["apply", "--check", str(creating)]),
        ("patch-package", "patch-package --version", ["--version"]),
    )
    missing = []
    for program, name, arguments in others:
        where = shutil.which(program)
        if where is None:
            missing.append(program)
        else:
            found.append(Program(name, [where, *arguments], scratch))
    return found, missing


def install(environment: Path) -> Path:
    """Install this checkout into a new environment, as users do, and return the directory of its programs."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", str(REPOSITORY)]
    subprocess.run(command, check=True, env=clean())
    return environment / "bin"


def stand_in(folder: Path) -> Path:
    """Return an installation of a release with a series: `check` finds its files missing, at the cost of a search."""
    manifest = load()
    version = manifest.series[-1].versions.removeprefix("==")
    info = folder / f"lmcache-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lmcache\nVersion: {version}\n", encoding="utf-8")
    (info / "RECORD").write_text("", encoding="utf-8")
    (folder / "lmcache").mkdir()
    (folder / "lmcache" / "__init__.py").write_text("", encoding="utf-8")
    return folder


def measure(chosen: Sequence[Program], runs: int) -> list[Timing]:
    """Return the smallest times; one warm-up run of each is not counted."""
    times: dict[str, list[float]] = {one.name: [] for one in chosen}
    for _ in range(runs + 1):
        for one in chosen:
            times[one.name].append(_once(one))
    least = {name: min(taken[1:]) for name, taken in times.items()}
    return [
        Timing(name, seconds, seconds / least[chosen[0].name], BUDGETS.get(name)) for name, seconds in least.items()
    ]


def _once(program: Program) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        program.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=program.folder,
        env=clean() | dict(program.variables),
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
