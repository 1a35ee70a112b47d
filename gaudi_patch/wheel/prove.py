"""Prove a patched wheel before the output is written: install it beside an interpreter's packages.

The series changes the same files in the wheels of all Python versions, so one wheel is enough.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.authoring.prove import environment
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import step
from gaudi_patch.smoke import checks
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.locate import Target, locate
from gaudi_patch.target.packages import python_version


class WheelProof(NamedTuple):
    """The wheel that was run, the results of the smoke levels, and the interpreter."""

    wheel: str
    levels: tuple[LevelResult, ...]
    python: Path


def prove(wheels: Sequence[Path], package: str, python: Path, smoke: checks.SmokeOptions) -> WheelProof:
    """Install the wheel that fits ``python`` into a throwaway environment, and run the smoke checks.

    Raises ``no-fitting-wheel`` (exit 2), ``smoke-failed`` and ``nothing-proved`` (exit 5).
    """
    wheel = _fitting(wheels, python)
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-wheel-") as scratch:
        # Keep the wheel's name: an installer parses it.
        with step(f"installing {wheel.name} beside the packages of {python}"):
            target = environment(Path(scratch, "venv"), wheel, python)
        installation = locate(Target(python=target), package)
        proof = checks.prove(installation, smoke)
    if proof.fault is not None:
        proof.fault.message += "; no wheel was written"
        proof.fault.hint = "see the details; without --smoke the wheel is built unproved"
        raise proof.fault
    return WheelProof(wheel.name, proof.levels, python)


def _fitting(wheels: Sequence[Path], python: Path) -> Path:
    version = python_version(python) or ""
    tag = "cp" + "".join(version.split(".")[:2])
    for wheel in wheels:
        if re.search(rf"-({tag}|py3)-", wheel.name):
            return wheel
    names = ", ".join(wheel.name for wheel in wheels)
    raise GaudiPatchError(
        Exit.USAGE,
        "no-fitting-wheel",
        f"{python} is Python {version or 'of unknown version'}, and can install none of {names}; nothing was written",
        "point --python at an interpreter with PyTorch, or leave out --smoke",
    )
