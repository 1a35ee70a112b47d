"""The table of pairs, levels and rules, and the file that keeps results, so that the table can grow step by step."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gaudi_patch.smoke.outcome import LevelResult

LEVELS = ("connector", "inference")
RULES = ("lazy", "eager")
_HEAD = ("LMCache", "vLLM", *(f"{level}, {rules}" for level in LEVELS for rules in RULES), "not checked")
_UNPATCHED_HEAD = ("LMCache", "vLLM", "level", "result")

Row = dict[str, Any]


def row(lmcache: str, vllm: str, *, patched: bool, result: LevelResult) -> Row:
    """Return the recorded result of one level under one set of rules on one pair."""
    return {
        "lmcache": lmcache,
        "vllm": vllm,
        "patched": patched,
        "level": result.level,
        "rules": result.rules,
        "status": result.status,
        "reason": result.reason,
        "checks": result.checks,
        "seconds": round(result.seconds),
        "not_checked": result.counters.document.get("not_checked", {}),
    }


def merge(kept: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Return both; a new row replaces a kept row about the same subject."""
    rows = {_key(one): one for one in kept}
    rows.update({_key(one): one for one in new})
    return list(rows.values())


def read(path: Path | None) -> list[Row]:
    """Return the rows of a file; empty if there is no such file yet."""
    if path is None or not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows to the file."""
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """Return one table for the patched releases and one for the unpatched; newest pairs first."""
    parts = []
    if patched := [one for one in rows if one["patched"]]:
        lines = [_pair_line(pair) for pair in _by_pair(patched)]
        parts.append("\n".join([_line(_HEAD), _line(["---"] * len(_HEAD)), *lines]))
    if stock := [one for one in rows if not one["patched"]]:
        lines = [
            _line((one["lmcache"], one["vllm"], f"{one['level']}, {one['rules']}", _result(one)))
            for pair in _by_pair(stock)
            for one in pair
        ]
        parts.append("\n".join([_line(_UNPATCHED_HEAD), _line(["---"] * len(_UNPATCHED_HEAD)), *lines]))
    return "\n\n".join(parts)


def _key(one: Row) -> tuple[object, ...]:
    return tuple(one[name] for name in ("lmcache", "vllm", "patched", "level", "rules"))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _by_pair(rows: Sequence[Row]) -> list[list[Row]]:
    pairs: dict[tuple[str, str], list[Row]] = {}
    for one in rows:
        pairs.setdefault((one["lmcache"], one["vllm"]), []).append(one)
    newest_first = sorted(pairs, key=lambda pair: (_numbers(pair[0]), _numbers(pair[1])), reverse=True)
    return [pairs[pair] for pair in newest_first]


def _pair_line(rows: Sequence[Row]) -> str:
    found = {(one["level"], one["rules"]): one for one in rows}
    cells = [_cell(found.get((level, rules))) for level in LEVELS for rules in RULES]
    reasons: dict[str, list[str]] = {}
    for one in rows:
        for case, reason in one["not_checked"].items():
            if case not in reasons.setdefault(reason, []):
                reasons[reason].append(case)
    left_out = "; ".join(f"{', '.join(cases)}: {reason}" for reason, cases in reasons.items())
    return _line((rows[0]["lmcache"], rows[0]["vllm"], *cells, left_out or "-"))


def _cell(one: Mapping[str, Any] | None) -> str:
    return "not run" if one is None else _result(one)


def _result(one: Mapping[str, Any]) -> str:
    if one["status"] == "passed":
        return f"passed ({one['checks']} comparisons, {one['seconds']} s)"
    text = re.sub(r"\s+", " ", one["reason"]).replace("|", "\\|")
    return f"**{one['status']}**: {text[:400]}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
