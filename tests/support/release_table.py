"""The table of releases and smoke levels, from what the tests of the releases report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from packaging.version import Version

LEVELS = ("imports", "kernels", "engine")
PROPERTY = "release_levels"


def row(version: str, *, patched: bool, levels: Sequence[Mapping[str, Any]]) -> str:
    """What a test gives to ``record_property(PROPERTY, ...)``; ``levels`` as in ``smoke --json``."""
    kept = [{name: one[name] for name in ("level", "rules", "status", "checks", "reason")} for one in levels]
    return json.dumps({"version": version, "patched": patched, "levels": kept})


def rows_of(reports: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows of all reports of a test run, oldest release first."""
    found = [
        json.loads(value)
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == PROPERTY
    ]
    return sorted(found, key=lambda one: (not one["patched"], Version(one["version"])))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for the patched releases and one for the unpatched, as far as there are rows."""
    parts = []
    for patched, title in ((True, "Patched"), (False, "As released, without the patch")):
        chosen = [one for one in rows if one["patched"] is patched]
        if chosen:
            head = ["LMCache", *(f"{level}, {rules}" for level in LEVELS for rules in ("lazy", "eager"))]
            lines = [f"{title}:", "", _line(head), _line(["---"] * len(head))]
            lines += [_line([one["version"], *map(_cell, _ordered(one["levels"]))]) for one in chosen]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _ordered(levels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    found = {(one["level"], one["rules"]): one for one in levels}
    return [found.get((level, rules)) for level in LEVELS for rules in ("lazy", "eager")]


def _cell(level: Mapping[str, Any] | None) -> str:
    if level is None:
        return "not run"
    if level["status"] == "passed":
        return f"passed ({level['checks']})"
    return f"{level['status']}: {_short(level['reason'])}"


def _short(reason: str) -> str:
    """The first failure alone, without where in the probe and what to do about it."""
    first = re.split(r" \(/|; LMCache |; run ", reason, maxsplit=1)[0]
    first = re.sub(r"\s+", " ", first).replace("|", "\\|")
    return first if len(first) <= 120 else first[:117] + "..."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
