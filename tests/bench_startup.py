"""Print what `check` costs at start-up against an empty typer program, as ratios of medians.

    python tests/bench_startup.py

Needs gaudi-patch installed for this interpreter. The budget of `check` is 1.5 times the empty program.
A stand-in installation of a release with a series is made in a temporary folder: `check` finds it missing
its files, which costs what finding them costs. No time is asserted: a shared machine is no stopwatch.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gaudi_patch.manifest import load

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def check() -> None: ...
@app.command()
def other() -> None: ...
app()
"""
RUNS = 25


def _once(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def _stand_in(folder: Path) -> Path:
    manifest = load()
    version = manifest.series[-1].versions.removeprefix("==")
    info = folder / f"lmcache-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lmcache\nVersion: {version}\n")
    (info / "RECORD").write_text("")
    (folder / "lmcache").mkdir()
    (folder / "lmcache" / "__init__.py").write_text("")
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        empty = Path(scratch) / "empty.py"
        empty.write_text(EMPTY)
        site = _stand_in(Path(scratch) / "site-packages")
        commands = {
            "empty typer program": [sys.executable, str(empty), "check"],
            "gaudi-patch check": [sys.executable, "-m", "gaudi_patch", "check", "--path", str(site)],
            "gaudi-patch list": [sys.executable, "-m", "gaudi_patch", "list"],
            "gaudi-patch --help": [sys.executable, "-m", "gaudi_patch", "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS + 1):  # in turn, so that a drift of the machine hits all alike
            for name, command in commands.items():
                times[name].append(_once(command))
        base = statistics.median(times["empty typer program"][1:])
        for name, taken in times.items():
            middle = statistics.median(taken[1:])
            print(f"{name:<22} {middle * 1000:6.1f} ms  {middle / base:5.2f}x")


if __name__ == "__main__":
    main()
