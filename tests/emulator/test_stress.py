"""Threads that share the device neither disturb each other nor deadlock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulator.support import run_script

pytestmark = pytest.mark.torch

THREADS = 6


@pytest.mark.parametrize("mode", ["eager", "eager-reversed"])
def test_six_threads_with_streams_and_pinned_copies(torch_python: Path, mode: str) -> None:
    """Eager mode only: the lazy graph is one per process, as in the bridge, so one thread does the work there."""
    report = run_script(torch_python, "run_stress.py", mode, "4", str(THREADS))
    assert report["stuck"] == 0, "threads are deadlocked"
    assert report["errors"] == []
    assert len(report["iterations"]) == THREADS
    assert min(report["iterations"]) >= 20
    assert report["pending"] == 0
