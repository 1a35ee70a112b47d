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
        (one.level, one.rules, one.status, one.device, str(one.checks), f"{one.seconds:.1f} s", one.reason)
        for one in levels
    ]
    return [
        Table(("level", "rules", "status", "device", "checks", "time", "what"), rows, "Smoke checks", state_column=2)
    ]


def data(level: LevelResult) -> dict[str, Any]:
    """Return the JSON of one level."""
    return asdict(level)
