"""The table of nasty cases is complete, and everything that it names exists."""

from __future__ import annotations

from collections.abc import Callable

from tests.support import cases


def test_every_case_has_a_test(record_property: Callable[[str, object], None]) -> None:
    found = cases.kept()
    assert sorted(found) == list(range(1, 73)) == sorted(cases.CASES)
    assert {number for number, names in found.items() if not names} == set()
    record_property("nasty cases, each kept by tests", len(found))


def test_every_test_that_is_named_exists() -> None:
    names = {name for name, _ in cases.tests()}
    named = {name for listed in cases.ELSEWHERE.values() for name in listed}
    assert named - names == set()


def test_the_table_is_up_to_date() -> None:
    """Run `python -m tests.support.cases` to renew the table."""
    assert cases.TABLE.read_text() == cases.table()
