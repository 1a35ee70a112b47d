"""docs/reference/faults.md: each row has an existing test with the same exit code and error code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from gaudi_patch.errors import Exit

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS.parent / "docs" / "reference" / "faults.md"
#: Table entries that no test spells out: the process kills itself, or is compared with a run without the fault.
UNSPELT = frozenset({"as without it", "that of the result", "the signal's"})


class Row(NamedTuple):
    """One fault: exit codes and error codes as in the table, and the test."""

    fault: str
    exits: tuple[str, ...]
    codes: tuple[str, ...]
    test: str


def rows() -> list[Row]:
    found = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "what happens":
            fault, exits, codes, _, _, test = cells
            names = tuple(re.findall(r"`([^`]+)`", codes))
            found.append(Row(fault, () if exits in UNSPELT else tuple(exits.split(", ")), names, test.strip("` |")))
    return found


def source(test: str) -> str:
    """Return a test's source, with its decorators and the constants of its file."""
    file, _, name = test.partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    parts = [
        "\n".join(ast.get_source_segment(text, part) or "" for part in [*node.decorator_list, node])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    parts += [ast.get_source_segment(text, node) or "" for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return "\n".join(parts) if any(name in part for part in parts) else ""


def says(text: str, code: str) -> bool:
    """Return whether a test's source contains an exit code, by number or by name."""
    names = [f"Exit.{one.name}" for one in Exit if str(int(one)) == code]
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in [code, *names])


def test_the_table_has_every_way_to_fail_after_the_commit() -> None:
    assert len(rows()) >= 20
    exits = {code for row in rows() for code in row.exits}
    assert {"4", "5", "6", "130", "143"} <= exits


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.fault)
def test_each_row_is_what_its_test_asserts(row: Row) -> None:
    text = source(row.test)
    assert text, f"no such test: {row.test}"
    assert [code for code in row.exits if not says(text, code)] == []
    named = [code for code in row.codes if f'"{code}"' in text]
    assert named or not row.codes or {"interrupted", "terminated"} & set(row.codes), row


def test_a_row_that_says_something_else_is_noticed() -> None:
    text = source("engine/test_undo.py::test_a_temporary_file_that_cannot_be_removed_stops_nothing")
    assert says(text, "6")
    assert not says(text, "4")
    assert source("engine/test_undo.py::test_that_is_not_there") == ""
