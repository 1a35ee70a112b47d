"""Prepare the emulated HPU before the first level runs: compile it, or report why not, at most once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.reading import read_bytes
from gaudi_patch.smoke import outcome, target
from gaudi_patch.target import process

_BUILD_SECONDS = 900.0


@dataclass(frozen=True)
class Device:
    """The compiled device for a target's PyTorch, or why there is none.

    library: the compiled file, passed to the probes. obstacle: why this environment cannot have the device. fault: a
    failure that is not due to the environment.
    """

    library: Path | None
    obstacle: str = ""
    fault: str = ""


def prepare(python: Path, emulator: Path, environ: Mapping[str, str], scratch: Path) -> Device:
    """Compile the device for the target's PyTorch unless it is cached; PyTorch is not imported."""
    environ = target.probe_environment(environ, rules="lazy", scratch=None)
    answer = scratch / "device"
    answer.unlink(missing_ok=True)
    command = [str(python), str(emulator), "build", "--name-to", str(answer)]
    try:
        finished = process.run(command, timeout=_BUILD_SECONDS, environ=environ, cwd=scratch)
    except OSError as error:
        return Device(None, fault=f"cannot run {python}: {error.strerror or error}")
    if finished.returncode == outcome.EMULATOR_UNAVAILABLE and outcome.EMULATOR_MESSAGE in finished.tail:
        return Device(None, obstacle=f"no emulated HPU here: {outcome.emulator_message(finished.tail)}")
    library = _named(answer) if finished.returncode == 0 else None
    if library is None:
        detail = f": {finished.last_line}" if finished.last_line else ""
        return Device(None, fault=f"the emulated HPU cannot be prepared ({finished.ending}{detail})")
    return Device(library)


def _named(answer: Path) -> Path | None:
    """Read the absolute path left by the build; None if there is none."""
    try:
        name = os.fsdecode(read_bytes(answer, follow=False))
    except OSError:
        return None
    return Path(name) if name.startswith("/") and "\0" not in name else None
