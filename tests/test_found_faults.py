"""docs/verification.md: each fault found from outside has its row, and each row names existing tests that judge."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.safety import GUARDS

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "verification.md"
HEADING = "## Faults found from outside"


class Row(NamedTuple):
    """One fault that was found, what holds now, and the tests."""

    fault: str
    now: str
    tests: tuple[str, ...]


def section() -> str:
    _, _, after = PAGE.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    return after.partition("\n## ")[0]


def rows() -> list[Row]:
    lines = [line for line in section().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]
    return [Row(fault, now, tuple(re.findall(r"`([^`]+)`", tests))) for fault, now, tests in cells]


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def judges(node: ast.FunctionDef, others: dict[str, ast.FunctionDef], seen: frozenset[str] = frozenset()) -> bool:
    """Return whether a test can fail: it, or a function of its file that it calls, asserts or expects an error."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assert) or (isinstance(part, ast.Attribute) and part.attr == "raises"):
            return True
        called = part.func.id if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) else ""
        if called in others and called not in seen and judges(others[called], others, seen | {called}):
            return True
    return False


def test_every_fault_has_a_row() -> None:
    assert len(rows()) == 35
    assert len({row.fault for row in rows()}) == len(rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.fault[:40])
def test_each_row_names_tests_that_exist_and_judge(row: Row) -> None:
    assert row.now
    assert row.tests
    for test in row.tests:
        file, _, name = test.partition("::")
        there = functions(file)
        assert name in there, f"no such test: {test}"
        assert judges(there[name], there), f"asserts nothing: {test}"


def test_the_number_of_guards_is_that_of_the_table() -> None:
    (count,) = re.findall(r"removes (\d+) guards", section())
    assert int(count) == len(GUARDS)


def test_a_test_that_asserts_nothing_is_noticed() -> None:
    tree = ast.parse("def test_a():\n    look()\ndef test_b():\n    look_well()\ndef look():\n    pass\n"
                     "def look_well():\n    assert 1\n")  # fmt: skip
    there = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not judges(there["test_a"], there)
    assert judges(there["test_b"], there)
