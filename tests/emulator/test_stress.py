"""Threads that share the device neither disturb each other nor lock up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulator.support import run_script

pytestmark = pytest.mark.torch

THREADS = 6


@pytest.mark.parametrize("mode", ["eager", "eager-reversed"])
def test_six_threads_with_streams_and_pinned_copies(torch_python: Path, mode: str) -> None:
    """Under eager mode; the lazy graph is one a process, in the bridge too, so that there one thread does the work."""
    report = run_script(torch_python, "run_stress.py", mode, "4", str(THREADS))
    assert report["stuck"] == 0, "threads are deadlocked"
    assert report["errors"] == []
    assert len(report["iterations"]) == THREADS
    assert min(report["iterations"]) >= 20
    assert report["pending"] == 0
