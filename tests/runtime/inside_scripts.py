"""Run a script of ``inside/`` with an interpreter that has PyTorch, on the emulated HPU or without a device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

from tests.runtime.conftest import COVERAGE_FILE, EMULATOR, INSIDE
from tests.support.environments import clean_environment


def lines(
    python: Path, script: str, *arguments: str | Path, rules: str = "host", tree: Path | None = None, timeout: int = 300
) -> list[str]:
    """Return the script's output lines; an error of the script fails the test with its output.

    ``rules`` are ``lazy``, ``eager`` or ``host``; ``tree`` holds a patched LMCache, if ``python`` has none.
    """
    device = [] if rules == "host" else [str(EMULATOR), f"--{rules}"]
    start, measured = _start(script)
    variables = {"OMP_NUM_THREADS": "1", "LMCACHE_TRACK_USAGE": "false"} | ({"PYTHONHASHSEED": "0"} if device else {})
    done = subprocess.run(
        [str(python), "-B", *device, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean_environment() | variables | measured | ({"PYTHONPATH": str(tree)} if tree is not None else {}),
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{rules}\n{done.stdout[-6000:]}\n{done.stderr[-8000:]}"
    return done.stdout.splitlines()


def _start(script: str) -> tuple[list[str], dict[str, str]]:
    """Return a script's command line and variables; with --cov, its report includes the runtime's modules."""
    data, package = os.environ.get(COVERAGE_FILE), importlib.util.find_spec("coverage")
    if not data or package is None or package.origin is None:
        return [str(INSIDE / script)], {}
    variables = {COVERAGE_FILE: data, "RUNTIME_COVERAGE_PACKAGE": str(Path(package.origin).parent)}
    return [str(INSIDE / "measured.py"), str(INSIDE / script)], variables
