"""The table of releases and smoke levels, from the reports of the release tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from packaging.version import Version

LEVELS = ("imports", "kernels", "engine")
PROPERTY = "release_levels"


def row(version: str, *, patched: bool, levels: Sequence[Mapping[str, Any]]) -> str:
    """Return the value that a test passes to ``record_property(PROPERTY, ...)``; ``levels`` as in ``smoke --json``."""
    kept = [{name: one[name] for name in ("level", "rules", "status", "checks", "reason")} for one in levels]
    return json.dumps({"version": version, "patched": patched, "levels": kept})


def rows_of(reports: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the rows of all reports of a test run, oldest release first."""
    found = [
        json.loads(value)
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == PROPERTY
    ]
    return sorted(found, key=lambda one: (not one["patched"], Version(one["version"])))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for the patched releases and one for the unpatched, if there are rows for them.

    Neighbours with equal results share a line. For unpatched releases, each level's first failure is named.
    """
    parts = []
    columns = [f"{level}, {rules}" for level in LEVELS for rules in ("lazy", "eager")]
    for patched, title in ((True, "Patched"), (False, "As released, without the patch")):
        chosen = [one for one in rows if one["patched"] is patched]
        if chosen:
            head = ["LMCache", *columns] if patched else ["LMCache", *columns, "fails first on (lazy mode)"]
            lines = [f"{title}:", "", _line(head), _line(["---"] * len(head))]
            cells = [(one["version"], [*map(_cell, _ordered(one["levels"]))]) for one in chosen]
            if not patched:
                cells = [(version, [*found, _causes(one)]) for (version, found), one in zip(cells, chosen, strict=True)]
                lines += [_line([_span(names), *found]) for names, found in _alike(cells)]
            else:
                lines += [_line([version, *found]) for version, found in cells]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _alike(cells: Sequence[tuple[str, list[str]]]) -> list[tuple[list[str], list[str]]]:
    groups: list[tuple[list[str], list[str]]] = []
    for version, found in cells:
        if groups and groups[-1][1] == found:
            groups[-1][0].append(version)
        else:
            groups.append(([version], found))
    return groups


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _causes(row: Mapping[str, Any]) -> str:
    failed = {
        one["level"]: one["reason"] for one in row["levels"] if one["rules"] == "lazy" if one["status"] != "passed"
    }
    return "; ".join(f"{level}: {_short(failed[level], row['version'])}" for level in LEVELS if level in failed)


def _ordered(levels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    found = {(one["level"], one["rules"]): one for one in levels}
    return [found.get((level, rules)) for level in LEVELS for rules in ("lazy", "eager")]


def _cell(level: Mapping[str, Any] | None) -> str:
    if level is None:
        return "not run"
    return str(level["status"])


def _short(reason: str, version: str) -> str:
    """Return only the first failure, without its check, its place in the probe, and the hint."""
    first = re.split(r" \(/|; LMCache |; run | \(and \d+ more| \(lmcache/", reason, maxsplit=1)[0]
    first = first.partition(": ")[2].replace(f"LMCache {version}", "LMCache") or first
    first = re.sub(r"\s+", " ", first).replace("|", "\\|")
    return first if len(first) <= 120 else first[:117] + "..."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
