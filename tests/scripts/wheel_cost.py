"""Measure what `gaudi-patch wheel` costs of each wheel: CPU time and peak memory, as ratios to zipfile.

    python tests/scripts/wheel_cost.py WHEEL... [--runs 5]

The other side is a bare Python that unpacks the same file and packs it again. Both run alternately in separate
processes, including start-up; the medians are compared. No bound is asserted, since timings on a shared machine are
unreliable.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.output.report import Table, plain

_AGAIN = """
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2])
    with zipfile.ZipFile(sys.argv[2] + "/again.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name in archive.namelist():
            new.write(sys.argv[2] + "/" + name, name)
"""

#: Linux also counts the peak of the parent process as the child's own, so a bare process starts it.
_LAUNCHER = """
import os, sys
nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere), 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """The cost of a process: CPU seconds, including its children's, and its own peak memory in MiB."""

    seconds: float
    mebibytes: float


def main(arguments: Sequence[str]) -> None:
    """Print a row for each wheel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args(arguments)
    rows = []
    for wheel in chosen.wheels:
        ours, theirs = compared(wheel.absolute(), chosen.runs)
        rows.append(
            (
                wheel.name.split("-")[1],
                f"{ours.seconds / theirs.seconds:.2f}x",
                f"{ours.mebibytes:.1f} MiB",
                f"{theirs.mebibytes:.1f} MiB",
                f"{ours.mebibytes / theirs.mebibytes:.2f}x",
            )
        )
    heads = ("release", "CPU time", "peak", "of zipfile", "memory")
    print(plain(Table(heads, rows, f"wheel beside zipfile, medians of {chosen.runs} runs")), end="")


def compared(wheel: Path, runs: int) -> tuple[Cost, Cost]:
    """Return the medians of gaudi-patch and of zipfile, which run alternately; the first pair is not counted."""
    taken: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory(prefix="gaudi-patch-wheel-cost-") as folder:
            taken[0].append(cost([sys.executable, "-m", "gaudi_patch", "wheel", str(wheel), "--out", f"{folder}/out"]))
            taken[1].append(cost([sys.executable, "-c", _AGAIN, str(wheel), f"{folder}/again"]))
    ours, theirs = (Cost(*(statistics.median(column) for column in zip(*costs[1:], strict=True))) for costs in taken)
    return ours, theirs


def cost(command: Sequence[str]) -> Cost:
    """Run ``command``, which must succeed, and return its cost."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"exit {done.returncode}: {' '.join(command)}")
    seconds, kibibytes = done.stdout.split()
    return Cost(float(seconds), int(kibibytes) / 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
