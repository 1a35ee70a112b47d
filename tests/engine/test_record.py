"""RECORD: gaudi-patch sets its own rows, and keeps every other byte."""

from __future__ import annotations

import csv
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi_patch.engine.record import Entry, same, selected, updated


def entries(data: bytes) -> dict[str, Entry]:
    return selected(data, lambda _: True)


ENTRY = Entry("sha256=abc", "3")


def test_an_entry_is_the_digest_and_size_that_installers_write() -> None:
    assert Entry.of(b"") == Entry("sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", "0")
    assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_order_are_kept(end: bytes) -> None:
    """case_62: pip writes CRLF, uv LF."""
    data = end.join([b"z.py,sha256=1,1", b"a.py,sha256=2,2", b"m/RECORD,,", b""])
    assert updated(data, {"a.py": ENTRY}) == end.join([b"z.py,sha256=1,1", b"a.py,sha256=abc,3", b"m/RECORD,,", b""])
    assert updated(data, {"z.py": None}) == end.join([b"a.py,sha256=2,2", b"m/RECORD,,", b""])
    assert updated(data, {"new.py": ENTRY, "b.py": Entry()}) == data + end.join(
        [b"b.py,,", b"new.py,sha256=abc,3", b""]
    )


def test_mixed_line_ends_are_kept_row_by_row() -> None:
    """case_62"""
    data = b"a.py,,1\r\nb.py,,2\nc.py,,3"
    assert updated(data, {"b.py": ENTRY}) == b"a.py,,1\r\nb.py,sha256=abc,3\nc.py,,3"
    assert updated(data, {"c.py": ENTRY}) == b"a.py,,1\r\nb.py,,2\nc.py,sha256=abc,3"
    assert updated(data, {"d.py": ENTRY}) == data + b"\r\nd.py,sha256=abc,3\r\n"


def test_quoted_absolute_and_odd_paths_are_read_and_written() -> None:
    """case_62 case_24: commas and quotes are quoted; bytes that are not UTF-8 pass through."""
    data = b'"a,b.py",sha256=1,1\n"say ""x"".py",,\n/usr/bin/lmcache,sha256=2,2\n../../bin/x,,\n\xff.py,,\n'
    found = entries(data)
    assert list(found) == ["a,b.py", 'say "x".py', "/usr/bin/lmcache", "../../bin/x", "\udcff.py"]
    changed = updated(data, {"a,b.py": ENTRY, 'say "x".py': ENTRY, "\udcff.py": ENTRY})
    assert changed == (
        b'"a,b.py",sha256=abc,3\n"say ""x"".py",sha256=abc,3\n'
        b"/usr/bin/lmcache,sha256=2,2\n../../bin/x,,\n\xff.py,sha256=abc,3\n"
    )


def test_rows_that_are_no_rows_are_left_alone() -> None:
    """case_62"""
    data = b'\n# comment\na.py\nb.py,1\nc.py,1,2,3\n"open.py,,\nd.py,,\n'
    assert entries(data) == {"d.py": Entry()}
    assert updated(data, {"a.py": ENTRY, "d.py": None}) == (
        b'\n# comment\na.py\nb.py,1\nc.py,1,2,3\n"open.py,,\na.py,sha256=abc,3\n'
    )


def test_an_empty_record_gets_rows() -> None:
    assert updated(b"", {"a.py": ENTRY}) == b"a.py,sha256=abc,3\n"
    assert updated(b"", {"a.py": None}) == b""
    assert updated(b"x", {}) == b"x"


def test_a_row_that_stands_twice_is_set_twice() -> None:
    assert updated(b"a,,\na,,1\n", {"a": ENTRY}) == b"a,sha256=abc,3\na,sha256=abc,3\n"
    assert updated(b"a,,\na,,1\n", {"a": None}) == b""


NAMES = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(["", "sha256=x"]), st.sampled_from(["", "7"])), max_size=8))
def test_what_csv_writes_is_read_and_comes_back_to_the_byte(rows: dict[str, tuple[str, str]]) -> None:
    """After rows are set and undone, RECORD is unchanged, whatever the names."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([name, *row] for name, row in rows.items())
    data = stream.getvalue().encode()
    assert entries(data) == {name: Entry(*row) for name, row in rows.items()}
    changed = updated(data, dict.fromkeys(rows, ENTRY) | {"ours/new": ENTRY})
    back: dict[str, Entry | None] = {name: Entry(*row) for name, row in rows.items()}
    if "ours/new" not in rows:
        back["ours/new"] = None
    assert updated(changed, back) == data
    assert updated(data, {}) == data


def test_two_records_are_the_same_but_for_some_rows() -> None:
    """case_63: if only gaudi-patch's rows changed, the original is restored to the byte."""
    ours = {b"ours.py", b'"q".py'}.__contains__
    data = b"a.py,,\r\nours.py,sha256=1,1\r\nz.py,,"
    assert same(data, b'"""q"".py",,\r\na.py,,\r\nz.py,,\r\nours.py,,\r\n', ours)
    assert same(data, b"a.py,,\r\nz.py,,\r\n", ours)
    assert same(b"", b"ours.py,,\n", ours)
    for other in (b"a.py,,1\r\nz.py,,", b"a.py,,\r\n", b"z.py,,\r\na.py,,\r\n", data + b"\r\nb.py,,", data[:-1]):
        assert not same(data, other, ours)


def test_a_million_rows_are_gone_through_in_blocks() -> None:
    """Rows that cross a block boundary are read and kept like any other."""
    lines = [b"lmcache/module%06d.py,sha256=%s,12\n" % (number, b"x" * (number % 97)) for number in range(20_000)]
    data = b"".join(lines)
    assert len(data) > 20 * 65536
    assert len(selected(data, lambda path: True)) == len(lines)
    changed = updated(data, {"lmcache/module019999.py": None, "lmcache/module000700.py": ENTRY})
    lines[700] = b"lmcache/module000700.py,sha256=abc,3\n"
    assert changed == b"".join(lines[:-1])
