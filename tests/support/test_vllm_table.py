"""The table of pairs shows the results, where they were found, and what was omitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.smoke.counted import Counters
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import vllm_pairs, vllm_table


def _row(
    lmcache: str = "0.5.6",
    level: str = "inference",
    rules: str = "lazy",
    status: str = "passed",
    reason: str = "fine",
    *,
    patched: bool = True,
    not_checked: dict[str, str] | None = None,
) -> vllm_table.Row:
    counters = {"not_checked": not_checked} if not_checked else {}
    result = LevelResult(level, status, reason, 61.4, "emulated", rules, 140, (), Counters.read(counters))  # type: ignore[arg-type]
    return vllm_table.row(lmcache, "0.26.0", patched=patched, result=result)


def test_a_pair_is_a_line_with_each_level_under_each_rule_in_its_column() -> None:
    rows = [_row(rules="eager", status="failed", reason="a | b\nc"), _row(level="connector")]
    table = vllm_table.markdown(rows).splitlines()
    assert table[0] == (
        "| LMCache | vLLM | connector, lazy | connector, eager | inference, lazy | inference, eager | not checked |"
    )
    assert table[2] == (
        "| 0.5.6 | 0.26.0 | passed (140 comparisons, 61 s) | not run | not run | **failed**: a \\| b c | - |"
    )


def test_newest_pairs_come_first_by_number() -> None:
    table = vllm_table.markdown([_row("0.3.9"), _row("0.3.10"), _row("0.5.6")])
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["0.5.6", "0.3.10", "0.3.9"]


def test_a_case_that_was_not_checked_is_named_once_with_its_reason() -> None:
    rows = [
        _row(rules=rules, not_checked={"multiprocess": "no server", "disk": "no server"}) for rules in ("lazy", "eager")
    ]
    assert vllm_table.markdown(rows).endswith("| multiprocess, disk: no server |")


def test_unpatched_releases_have_a_table_of_their_own() -> None:
    table = vllm_table.markdown([_row(), _row("0.4.4", status="failed", reason="TensorTuple; run", patched=False)])
    assert table.split("\n\n")[1].splitlines()[2:] == [
        "| 0.4.4 | 0.26.0 | inference, lazy | **failed**: TensorTuple; run |"
    ]


def test_a_later_run_takes_the_place_of_an_earlier_one_and_of_no_other(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    vllm_table.write(kept, [_row(status="failed"), _row(rules="eager"), _row(patched=False)])
    merged = vllm_table.merge(vllm_table.read(kept), [_row()])
    assert [(one["rules"], one["patched"], one["status"]) for one in merged] == [
        ("lazy", True, "passed"),
        ("eager", True, "passed"),
        ("lazy", False, "passed"),
    ]


def test_pairs_are_named_as_in_the_table_or_refused() -> None:
    assert vllm_pairs.pairs_of("all") == list(vllm_pairs.PAIRS)
    assert vllm_pairs.pairs_of("") == []
    assert list(map(str, vllm_pairs.pairs_of("0.4.4x0.17.1"))) == ["0.4.4x0.17.1"]
    with pytest.raises(ValueError, match=r"no such pair: 0\.4\.4x9; there are 0\.5\.6x0\.26\.0"):
        vllm_pairs.pairs_of("0.4.4x0.17.1,0.4.4x9")
