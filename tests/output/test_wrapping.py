"""Plain text fits its width, breaks no word, and loses none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi_patch.output import report, wrapping
from gaudi_patch.output.report import Diff, Fields, Markdown, Table, Text
from gaudi_patch.output.wrapping import Whole

LONG = "a sentence of words that does not fit into a line of eighty columns, so that it has to go on in another"
URL = "https://example.org/" + "x" * 90

WORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
PROSE = st.lists(WORD, min_size=1, max_size=20).map(" ".join)


def words(text: str) -> list[str]:
    return text.split()


def test_what_fits_is_left_as_it_is() -> None:
    assert wrapping.prose("  two  spaces", 80) == "  two  spaces"
    assert wrapping.fields([("a", "b  c")], 80) == "a: b  c\n"
    assert wrapping.table(("x", "y"), [("1", "b  c")], 80) == "x  y\n1  b  c\n"


def test_a_value_goes_on_below_itself() -> None:
    first, second = wrapping.fields([("why", LONG)], 80).splitlines()
    assert first.startswith("why: a sentence")
    assert second.startswith("     ")
    assert not second.startswith("      ")


def test_a_very_long_name_leaves_room_for_its_value() -> None:
    _, second = wrapping.fields([("n" * 50, LONG)], 80).splitlines()[:2]
    assert re.match(r"    \S", second)


def test_the_widest_column_is_made_narrower_and_the_others_stay() -> None:
    lines = wrapping.table(("level", "check", "found"), [("ok", "env.lazy-mode", LONG)], 80).splitlines()
    assert lines[0] == "level  check          found"
    assert lines[1].startswith("ok     env.lazy-mode  a sentence")
    assert re.match(r" {22}\S", lines[2])


def test_a_path_or_url_is_never_broken_and_what_is_before_it_is() -> None:
    for text in (wrapping.prose(f"see {URL}", 80), wrapping.fields([("source", f"see {URL}")], 80)):
        assert URL in text
    table = wrapping.table(("check", "found"), [(LONG, f"see {URL}")], 80)
    assert URL in table
    assert all(len(line) <= 80 for line in table.splitlines() if URL not in line)


def test_a_settings_name_in_the_last_column_stays_whole_where_there_is_room() -> None:
    """A terminal breaks text that is longer than its column, and half a name cannot be copied."""
    setting, columns = "LMCACHE_GAUDI_PIN_AHEAD_MIB=256", ("releases", "does not work", "instead")
    rows = [(LONG, LONG, setting)]
    widths = wrapping.column_widths(columns, rows, 79)
    assert widths[-1] >= len(setting)
    assert sum(widths) + 4 <= 79


def test_a_long_path_makes_only_its_own_row_too_wide() -> None:
    lines = wrapping.table(("reason", "check"), [(f"not found in {URL}", "a.b"), (LONG, LONG)], 80).splitlines()
    assert [line for line in lines if len(line) > 80] == [line for line in lines if URL in line]


@given(text=PROSE, indent=st.integers(0, 6))
def test_prose_fits_and_keeps_every_word(text: str, indent: int) -> None:
    broken = wrapping.prose(" " * indent + text, 50)
    assert words(broken) == words(text)
    assert all(len(line) <= 50 for line in broken.splitlines())


@given(rows=st.lists(st.tuples(WORD, PROSE), min_size=1, max_size=4))
def test_fields_fit_and_keep_every_word(rows: list[tuple[str, str]]) -> None:
    broken = wrapping.fields(rows, 80)
    assert words(broken) == [word for name, value in rows for word in (f"{name}:", *words(value))]
    assert all(len(line) <= 80 for line in broken.splitlines())


@given(rows=st.lists(st.tuples(PROSE, PROSE), min_size=1, max_size=4))
def test_tables_fit_and_keep_every_word(rows: list[tuple[str, str]]) -> None:
    broken = wrapping.table(("one", "two"), rows, 80)
    assert sorted(words(broken)) == sorted(
        ["one", "two", *(word for row in rows for cell in row for word in words(cell))]
    )
    assert all(len(line) <= 80 for line in broken.splitlines())


@pytest.mark.parametrize(("columns", "width"), [("", 80), ("120", 120), ("wide", 80), ("0", 80), ("-5", 80)])
def test_columns_is_believed_where_it_is_a_number(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert wrapping.width_of() == width


def test_what_is_to_be_copied_is_not_wrapped() -> None:
    for block in (Diff(LONG), Markdown(LONG), Text(LONG, verbatim=True)):
        assert report.plain(block, 40) == f"{LONG}\n"
    for block in (Text(LONG), Fields([("a", LONG)]), Table(("a",), [(LONG,)], LONG)):
        assert max(map(len, report.plain(block, 40).splitlines())) <= 40


def test_a_value_with_a_path_stays_on_its_line() -> None:
    path = "/opt/my environments/" + "x/" * 40
    assert wrapping.fields([("lmcache", Whole(f"0.5.6 in {path}"))], 80) == f"lmcache: 0.5.6 in {path}\n"


NARRATION = (
    ("error: the file differs from what was written to it; all changes were undone", False),
    ("  why: an unpatched LMCache on Gaudi crashes or overwrites blocks that vLLM shares between requests", False),
    ("  PyTorch is not installed for this interpreter: use another one with --python, or install torch", False),
    ("  next: provide what is missing, in the environment of the target, and run the same command again", False),
    ("  next: gaudi-patch apply --python /opt/a/rather/long/path/to/venv/bin/python --manifest /opt/patches", True),
    ("  next: pip --python /opt/a/rather/long/path/to/venv/bin/python install --no-deps lmcache==0.5.6", True),
    ("  next: reinstall the release: `pip install --upgrade --no-deps --target /tmp/site lmcache==0.3.7`", True),
    ("  source: `gaudi-patch show 0.5.6 --manifest '/opt/a/path/with many/words in it'`, and its patches", True),
    ("      12 |     if device is None and len(tensors) > 1:  # a line of code that an error quotes in full", True),
)


@pytest.mark.parametrize(("line", "whole"), NARRATION)
def test_a_long_line_of_stderr_breaks_at_spaces_unless_it_is_to_be_copied(line: str, whole: bool) -> None:
    shown = wrapping.narration(line, 60)
    assert (shown == line) is whole
    assert words(shown) == words(line)
    assert whole or max(map(len, shown.split("\n"))) <= 60
    assert wrapping.narration(line, 200) == line
