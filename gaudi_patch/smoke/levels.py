"""The table of smoke levels: their order, and each one's probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROBES = Path(__file__).resolve().parent / "probes"
EMULATOR = Path(__file__).resolve().parent.parent / "emulator"
# vLLM's CPU build, for levels connector and inference if no vLLM is installed; used by tests and the demo.
VLLM_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-vllm.txt"


@dataclass(frozen=True)
class Level:
    """One level.

    name: the name used on the command line.
    probe: file name under ``probes/``, run by path under the target interpreter.
    needs: modules, other than LMCache and torch, without which the level cannot run.
    brings_up_device: the probe itself chooses when to import habana_frameworks. It gets the directory of the emulated
        one and is not started under the emulator.
    processes: the number of processes that the probe runs in sequence; each has the time limit of a whole level.
    """

    name: str
    probe: str
    needs: tuple[str, ...] = ()
    brings_up_device: bool = False
    processes: int = 1

    @property
    def path(self) -> Path:
        return PROBES / self.probe


# In running order: each level assumes what the previous one proves.
LEVELS: tuple[Level, ...] = (
    Level("imports", "imports.py", brings_up_device=True),
    Level("kernels", "kernels.py", needs=("numpy",)),
    Level("engine", "engine.py", needs=("numpy",)),
    Level("connector", "connector.py", needs=("vllm",), brings_up_device=True, processes=5),
    Level("inference", "inference.py", needs=("vllm",), brings_up_device=True, processes=10),
)

# The directory that contains the emulated habana_frameworks.
EMULATOR_PACKAGES = EMULATOR / "packages"

# Names a compiled emulated HPU; emulator/options.py, which nothing here imports, reads it.
DEVICE_VARIABLE = "HPU_EMULATOR_DEVICE"

RULES: tuple[str, ...] = ("lazy", "eager")

DEVICES: tuple[str, ...] = ("auto", "hpu", "emulated")


def names() -> tuple[str, ...]:
    """Return the levels' names, in the order in which they run."""
    return tuple(level.name for level in LEVELS)


def select(wanted: Sequence[str]) -> list[Level]:
    """Return the named levels, without duplicates, in the order of the table.

    Raises ValueError for a name that is not in the table.
    """
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        raise ValueError(f"unknown smoke level {', '.join(unknown)}; there are {', '.join(names())}")
    return [level for level in LEVELS if level.name in wanted]
