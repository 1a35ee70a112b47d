"""The script that compares start-up with other tools measures what it reports, and never times a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.scripts import beside


def test_it_has_help_completion_and_checks_of_all_the_tools() -> None:
    chosen = beside.programs(Path("/tools"), Path("/target/bin/python"))
    for what in ("help", "completion", "check"):
        assert "gaudi-patch" in " ".join(program.shown for program in chosen if program.what == what)
    shown = " ".join(program.shown for program in chosen)
    assert all(f"{tool} " in shown for tool in ("pip", "uv", "pre-commit", "git"))
    assert "/target" not in shown
    documented = (beside.REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [program.shown for program in chosen if f"`{program.shown}`" not in documented] == []


def test_a_program_that_fails_is_not_measured(tmp_path: Path) -> None:
    broken = beside.Program("help", "broken", [sys.executable, "-c", "raise SystemExit(7)"])
    with pytest.raises(SystemExit, match="broken: exit 7, not 0"):
        beside.measure(broken, 1, tmp_path)


def test_the_table_is_that_of_the_documents() -> None:
    program = beside.Program("help", "pip --help", ["pip", "--help"])
    assert beside.markdown([beside.row(program, (0.4141, 0.0642, 0.3916))]).splitlines()[-1] == (
        "| help | `pip --help` | 414 ms | ± 64 ms | 392 ms |"
    )
