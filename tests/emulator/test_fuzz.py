"""Random programs with all necessary waits compute the CPU's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulator.support import run_script

pytestmark = pytest.mark.torch

PROGRAMS = 150


@pytest.mark.parametrize("mode", ["lazy", "eager", "lazy-reversed", "eager-reversed"])
def test_random_programs_give_the_cpus_bits(torch_python: Path, mode: str) -> None:
    report = run_script(torch_python, "run_fuzz.py", mode, "1000", str(PROGRAMS))
    assert report["failed"] == 0, "\n".join(report["failures"])
    assert report["programs"] == PROGRAMS
    assert report["ops"] > 10 * PROGRAMS
    assert report["pending"] == 0
