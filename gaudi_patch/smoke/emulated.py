"""Have the emulated HPU ready before the first level runs: compiled at most once, and refused at most once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke import outcome, target
from gaudi_patch.target import process

_BUILD_SECONDS = 900.0


@dataclass(frozen=True)
class Device:
    """The compiled device for a target's PyTorch, or why there is none.

    library: the file, which the probes are told of. obstacle: why the device cannot be had here. fault: what failed on
    the way, where that is no property of the environment.
    """

    library: Path | None
    obstacle: str = ""
    fault: str = ""


def prepare(python: Path, emulator: Path, environ: Mapping[str, str], scratch: Path) -> Device:
    """Compile the device for the target's PyTorch where the cache does not have it; PyTorch is not imported."""
    environ = target.probe_environment(environ, rules="lazy", scratch=None)
    try:
        finished = process.run(
            [str(python), str(emulator), "build"], timeout=_BUILD_SECONDS, environ=environ, cwd=scratch
        )
    except OSError as error:
        return Device(None, fault=f"cannot run {python}: {error.strerror or error}")
    if finished.returncode == outcome.EMULATOR_UNAVAILABLE and outcome.EMULATOR_MESSAGE in finished.tail:
        return Device(None, obstacle=f"no emulated HPU here: {outcome.emulator_message(finished.tail)}")
    lines = [line for line in finished.tail.splitlines() if line.strip()]
    library = Path(lines[-1]) if finished.returncode == 0 and lines else None
    if library is None or not library.is_absolute():
        detail = f": {finished.last_line}" if finished.last_line else ""
        return Device(None, fault=f"the emulated HPU cannot be prepared ({finished.ending}{detail})")
    return Device(library)
