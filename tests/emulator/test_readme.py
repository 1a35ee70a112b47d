"""The README's rules: each names its source and existing tests."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
README = TESTS.parents[1] / "gaudi_patch" / "emulator" / "README.md"


def _rules() -> list[list[str]]:
    section = README.read_text().partition("## Rules and their sources")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]
    return [row for row in rows if not row[0].startswith(("rule", "---"))]


def test_every_rule_has_a_source_and_tests_that_exist() -> None:
    defined = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    rules = _rules()
    assert len(rules) >= 30
    for row in rules:
        assert len(row) == 3, row
        rule, source, tests = row
        assert source, rule
        named = [name.strip("\u2026") for name in re.findall(r"`([^`]+)`", tests)]
        assert named, f"no test: {rule}"
        for name in named:
            assert re.search(rf"^def \w*{re.escape(name)}\w*\(", defined, flags=re.MULTILINE), f"{rule}: no {name}"
