"""Results of smoke levels in text and JSON, for the commands that run them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import Block, Fields, Table
from gaudi_patch.smoke.outcome import LevelResult

_DEVICES = {"hpu": "on an HPU", "emulated": "on the emulated HPU"}


def blocks(levels: Sequence[LevelResult], *, verbose: bool = True, fault: GaudiPatchError | None = None) -> list[Block]:
    """Return a table of the levels, or one line for those that passed and one per reason for skipping.

    A reason already given by ``fault`` is not repeated.
    """
    return [_table(levels)] if verbose else [Fields(_lines(levels, "\n".join(fault.details) if fault else ""))]


def _table(levels: Sequence[LevelResult]) -> Table:
    rows = [
        (
            level.level,
            level.rules,
            level.status,
            level.device,
            str(level.checks),
            f"{level.seconds:.1f} s",
            level.reason,
        )
        for level in levels
    ]
    return Table(("level", "mode", "status", "device", "checks", "time", "what"), rows, "Smoke checks", state_column=2)


def _lines(levels: Sequence[LevelResult], said: str) -> list[tuple[str, str]]:
    passed = [level for level in levels if level.status == "passed"]
    lines = []
    if passed:
        checks, seconds = sum(level.checks for level in passed), sum(level.seconds for level in passed)
        devices = ", ".join(dict.fromkeys(_DEVICES.get(level.device, level.device) for level in passed))
        lines.append(("passed", f"{_names(passed)}: {checks} comparisons {devices} in {seconds:.1f} s"))
    if failed := [level for level in levels if level.status == "failed"]:
        lines.append(("failed", _names(failed)))  # the error says why
    reasons: dict[str, list[LevelResult]] = {}
    for level in levels:
        if level.status == "skipped":
            reasons.setdefault(level.reason, []).append(level)
    for reason, skipped in reasons.items():
        lines.append(("skipped", _names(skipped) if reason in said else f"{_names(skipped)}: {reason}"))
    return lines


def _names(levels: Iterable[LevelResult]) -> str:
    """Name levels with the modes in which they ran: "imports, kernels (lazy, eager)"."""
    modes: dict[str, list[str]] = {}
    for level in levels:
        modes.setdefault(level.level, []).append(level.rules)
    groups: dict[str, list[str]] = {}
    for name, ran in modes.items():
        groups.setdefault(", ".join(ran), []).append(name)
    return "; ".join(f"{', '.join(names)} ({ran})" for ran, names in groups.items())


def data(level: LevelResult) -> dict[str, Any]:
    """Return the JSON of one level."""
    return level.to_json()
