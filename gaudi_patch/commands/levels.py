"""What smoke levels came to, for people and as JSON: shared by the commands that run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gaudi_patch.output.report import Block, Table
from gaudi_patch.smoke.outcome import LevelResult


def blocks(levels: Sequence[LevelResult]) -> list[Block]:
    """Return a table of the levels."""
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
    return [
        Table(("level", "rules", "status", "device", "checks", "time", "what"), rows, "Smoke checks", state_column=2)
    ]


def data(level: LevelResult) -> dict[str, Any]:
    """Return the JSON of one level."""
    return asdict(level)
