"""Run a script of ``inside/`` by an interpreter with PyTorch, on the tree of a patched release."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.environments import clean_environment

INSIDE = Path(__file__).resolve().parent / "inside"


def last_line(python: Path, tree: Path, script: str, *arguments: str) -> str:
    """Return the last line that the script prints; an error of it fails the test with its output."""
    done = subprocess.run(
        [str(python), "-B", str(INSIDE / script), *arguments],
        capture_output=True,
        text=True,
        env=clean_environment() | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "LMCACHE_TRACK_USAGE": "false"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout.splitlines()[-1]
