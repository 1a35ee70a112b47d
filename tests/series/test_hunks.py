"""A hunk applies exactly at its position, byte for byte, or nowhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gaudi_patch.series.hunks import MAX_PLACES, Hunk, HunkMismatch, apply, occurrences, offsets, split
from tests.support.unified import make_hunks, moved, reverse

TEN = b"".join(b"%d\n" % number for number in range(1, 11))
CHANGED = TEN.replace(b"5\n", b"five\n")
(FIVE,) = make_hunks(TEN, CHANGED)  # lines 2 to 8


def hunk(old_start: int, new_start: int, *lines: bytes) -> Hunk:
    """Return a hunk of lines like b"+text\\n", with the right counts."""
    parts = tuple((line[:1], line[1:]) for line in lines)
    old, new = (sum(tag != other for tag, _ in parts) for other in (b"+", b"-"))
    return Hunk(old_start, old, new_start, new, parts)


def mismatch(original: bytes, *hunks: Hunk, allow_offset: bool = False) -> HunkMismatch:
    with pytest.raises(HunkMismatch) as caught:
        apply(original, hunks, allow_offset=allow_offset)
    assert caught.value.hunk is hunks[caught.value.index]
    return caught.value


def facts(error: HunkMismatch) -> tuple[int, str, int, bytes, bytes | None]:
    return error.index, error.reason, error.at, error.expected, error.found


def test_a_hunk_has_no_section_and_no_line_unless_it_is_told() -> None:
    assert (FIVE.section, FIVE.line) == (b"", 0)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b"\n"]),
        (b"a", [b"a"]),
        (b"a\n", [b"a\n"]),
        (b"a\n\nb", [b"a\n", b"\n", b"b"]),
        (b"a\r\nb\rc\n\x0c\x0b\x1c\x85", [b"a\r\n", b"b\rc\n", b"\x0c\x0b\x1c\x85"]),
        ("a\u2028b\n".encode(), ["a\u2028b\n".encode()]),
    ],
)
def test_lines_end_at_lf_alone(data: bytes, lines: list[bytes]) -> None:
    assert split(data) == lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TEN, CHANGED),
        (TEN, b"0\n" + TEN),
        (TEN, TEN + b"11\n"),
        (TEN, TEN + b"11"),
        (TEN, TEN[:-1]),
        (TEN[:-1], TEN),
        (TEN, TEN[2:]),
        (TEN, TEN[:-3]),
        (TEN, b""),
        (b"", TEN),
        (b"", b"a"),
        (b"a", b""),
        (b"a", b"a\n"),
        (b"a\n", b"b\n"),
        (TEN.replace(b"\n", b"\r\n"), CHANGED.replace(b"\n", b"\r\n")),
        (TEN, TEN.replace(b"\n", b"\r\n")),
        (b"a\rb\nc\n", b"a\rB\nc\n"),
        (b"\x00\n\xff\n", b"\x00\n\xfe\n"),
        (TEN * 10, b"x\n" + TEN * 5 + b"y\n" + TEN * 5 + b"z"),
        (b"x\n" * 50, b"x\n" * 25 + b"y\n" + b"x\n" * 24),
    ],
)
def test_a_diff_gives_the_new_bytes_and_its_reverse_the_old(old: bytes, new: bytes) -> None:
    hunks = make_hunks(old, new)
    assert apply(old, hunks) == new
    assert apply(new, reverse(hunks)) == old


def test_no_hunks_change_nothing() -> None:
    assert apply(TEN, []) == TEN
    assert apply(TEN, [], allow_offset=True) == TEN
    assert apply(b"", []) == b""
    assert offsets(TEN, []) == []


def test_several_hunks_count_lines_of_the_original() -> None:
    old = b"".join(b"%d\n" % number for number in range(60))
    new = b"new\n" * 5 + old.replace(b"\n30\n31\n", b"\n30\n")[:-3] + b"end\n"
    hunks = make_hunks(old, new)
    assert [each.index for each in hunks] == [0, 28, 56]
    assert apply(old, hunks) == new
    assert mismatch(b"#\n" + old, *hunks[1:]).index == 0


@pytest.mark.parametrize(
    ("original", "hunks", "expected"),
    [
        (TEN.replace(b"3\n", b"x\n"), [FIVE], (0, "context differs", 3, b"3\n", b"x\n")),
        (TEN.replace(b"5\n", b"x\n"), [FIVE], (0, "context differs", 5, b"5\n", b"x\n")),
        (TEN.replace(b"8\n", b"x\n"), [FIVE], (0, "context differs", 8, b"8\n", b"x\n")),
        (b"#\n" + TEN, [FIVE], (0, "context differs", 2, b"2\n", b"1\n")),
        (CHANGED, [FIVE], (0, "context differs", 5, b"5\n", b"five\n")),
        (TEN.replace(b"\n", b"\r\n"), [FIVE], (0, "line endings differ", 2, b"2\n", b"2\r\n")),
        (TEN.replace(b"4\n", b"4\r\n"), [FIVE], (0, "line endings differ", 4, b"4\n", b"4\r\n")),
        (TEN.replace(b"4\n", b"4 \n"), [FIVE], (0, "context differs", 4, b"4\n", b"4 \n")),
        (TEN.replace(b"4\n", b"4X\n"), [FIVE], (0, "context differs", 4, b"4\n", b"4X\n")),
        (TEN, [hunk(4, 4, b" 4X\n", b"-5\n", b" 6\n")], (0, "context differs", 4, b"4X\n", b"4\n")),
        (TEN[:14], [FIVE], (0, "past the end", 8, b"8\n", None)),
        (TEN[:15], [FIVE], (0, "line endings differ", 8, b"8\n", b"8")),
        (b"", [FIVE], (0, "past the end", 1, b"2\n", None)),
        (b"1\n", [FIVE], (0, "past the end", 2, b"2\n", None)),
        (TEN, [FIVE, hunk(9, 9, b" 9\n", b"-x\n", b" 11\n")], (1, "context differs", 10, b"x\n", b"10\n")),
        (TEN, [FIVE, hunk(20, 20, b" 9\n", b"-x\n")], (1, "past the end", 11, b"9\n", None)),
    ],
)
def test_a_hunk_that_does_not_fit_is_refused_with_the_first_line_that_differs(
    original: bytes, hunks: list[Hunk], expected: tuple[int, str, int, bytes, bytes | None]
) -> None:
    assert facts(mismatch(original, *hunks)) == expected


def test_a_mismatch_reads_as_a_sentence() -> None:
    assert str(mismatch(b"#\n" + TEN, FIVE)) == "hunk 1 does not apply at line 2: context differs"


@pytest.mark.parametrize("allow_offset", [False, True])
@pytest.mark.parametrize(
    ("original", "each", "at", "found"),
    [
        (TEN, hunk(9, 9, b" 9\n", b"+x\n"), 10, b"10\n"),
        (TEN, hunk(8, 8, b" 8\n", b"-9\n"), 10, b"10\n"),
        (b"a\n", hunk(0, 1, b"+x\n"), 1, b"a\n"),
        (TEN, hunk(0, 1, b"+x\n"), 1, b"1\n"),
        (b"a\nb\n", hunk(1, 1, b"-a\n", b"+x\n"), 2, b"b\n"),
        (b"a\nb\n", hunk(1, 0, b"-a\n"), 2, b"b\n"),
    ],
)
def test_a_hunk_without_trailing_context_fits_only_at_the_end(
    original: bytes, each: Hunk, at: int, found: bytes, allow_offset: bool
) -> None:
    error = mismatch(original, each, allow_offset=allow_offset)
    assert facts(error) == (0, "context differs", at, b"", found)


def test_a_created_file_is_refused_where_there_is_content() -> None:
    create = hunk(0, 1, b"+x\n", b"+y")
    assert apply(b"", [create]) == b"x\ny"
    assert apply(b"", [create], allow_offset=True) == b"x\ny"
    assert facts(mismatch(b"x\ny", create)) == (0, "context differs", 1, b"", b"x\n")


def test_a_hunk_without_old_lines_beyond_the_end_is_refused() -> None:
    assert facts(mismatch(b"a\n", hunk(1, 2, b"+x\n"), hunk(3, 5, b"+y\n"))) == (1, "past the end", 2, b"", None)
    assert apply(b"a\n", [hunk(1, 2, b"+x\n")]) == b"a\nx\n"


@pytest.mark.parametrize("second", [FIVE, moved(FIVE, 6), moved(FIVE, -1), hunk(8, 8, b" 8\n", b"+x\n", b" 9\n")])
def test_hunks_that_overlap_are_an_error_of_the_caller(second: Hunk) -> None:
    with pytest.raises(ValueError, match="hunk 2 overlaps"):
        apply(TEN, [FIVE, second])


def test_hunks_may_touch() -> None:
    touching = hunk(9, 9, b" 9\n", b"+x\n", b" 10\n")
    assert apply(TEN, [FIVE, touching]) == CHANGED[:-3] + b"x\n10\n"
    assert apply(b"#\n" + TEN, [FIVE, touching], allow_offset=True) == b"#\n" + CHANGED[:-3] + b"x\n10\n"


@pytest.mark.parametrize(("before", "by"), [(b"", 0), (b"#\n", 1), (b"#\n" * 100, 100)])
def test_with_offset_a_hunk_is_found_where_it_stands_once(before: bytes, by: int) -> None:
    assert apply(before + TEN, [FIVE], allow_offset=True) == before + CHANGED
    assert offsets(before + TEN, [FIVE]) == [by]


def test_a_hunk_can_move_up() -> None:
    assert apply(TEN[2:], [FIVE], allow_offset=True) == CHANGED[2:]
    assert offsets(TEN[2:], [FIVE]) == [-1]


def test_each_hunk_moves_on_its_own() -> None:
    old = b"".join(b"%d\n" % number for number in range(60))
    new = old.replace(b"10\n", b"ten\n").replace(b"30\n", b"").replace(b"50\n", b"50\nmore\n")
    hunks = make_hunks(old, new)
    drift = {b"20\n": b"20\n#\n#\n", b"40\n": b"", b"2\n": b"2\n"}
    drifted, wanted = old, new
    for there, instead in drift.items():
        drifted, wanted = (data.replace(b"\n" + there, b"\n" + instead) for data in (drifted, wanted))
    assert apply(drifted, hunks, allow_offset=True) == wanted
    assert offsets(drifted, hunks) == [0, 2, 1]
    assert mismatch(drifted, *hunks).index == 1


@pytest.mark.parametrize(
    "original",
    [TEN + TEN, TEN + b"#\n" + TEN[:16], TEN[2:16] + TEN, b"#\n" + TEN[2:16] + TEN[2:16]],
)
def test_a_hunk_that_stands_twice_is_refused_even_at_its_own_line(original: bytes) -> None:
    error = mismatch(original, FIVE, allow_offset=True)
    first = original.index(TEN[2:16])
    assert facts(error) == (0, "not unique", original[:first].count(b"\n") + 1, b"2\n", None)
    with pytest.raises(HunkMismatch):
        offsets(original, [FIVE])


def test_a_copy_before_the_last_hunk_makes_a_hunk_not_unique_too() -> None:
    old = TEN[2:16] + b"#\n" * 9 + b"a\nb\nc\n" + b"#\n" * 9 + TEN
    middle = hunk(17, 17, b" a\n", b"-b\n", b"+B\n", b" c\n")
    error = mismatch(old, middle, moved(FIVE, 28), allow_offset=True)
    assert facts(error) == (1, "not unique", 1, b"2\n", None)
    assert apply(old, [middle, moved(FIVE, 28)]).endswith(CHANGED)


def test_occurrences_that_overlap_count() -> None:
    each = hunk(2, 2, b" x\n", b" x\n", b"-x\n", b"+y\n", b" x\n")
    assert mismatch(b"#\n" + b"x\n" * 5, each, allow_offset=True).reason == "not unique"
    assert apply(b"#\n" + b"x\n" * 4, [each], allow_offset=True) == b"#\nx\nx\ny\nx\n"


def test_a_hunk_inside_the_old_side_of_another_is_found_there() -> None:
    short = hunk(5, 5, b" 5\n", b"-6\n", b" 7\n")
    assert facts(mismatch(TEN, FIVE, short, allow_offset=True)) == (1, "not found", 5, b"5\n", None)
    assert offsets(TEN, [short]) == [0]
    twice = TEN + b"5\n6\n7\n"
    assert offsets(twice, [FIVE]) == [0]
    assert mismatch(twice, moved(short, 8), allow_offset=True).reason == "not unique"


def test_hunks_found_out_of_order_are_refused() -> None:
    first, second = hunk(2, 2, b" 2\n", b"-3\n", b" 4\n"), hunk(7, 6, b" 7\n", b"-8\n", b" 9\n")
    swapped = b"#\n7\n8\n9\n#\n2\n3\n4\n#\n"
    assert offsets(TEN, [first, second]) == [0, 0]
    assert facts(mismatch(swapped, first, second, allow_offset=True)) == (1, "not found", 2, b"7\n", None)


def test_two_hunks_never_share_one_place() -> None:
    each = hunk(2, 2, b" 2\n", b"-3\n", b" 4\n")
    error = mismatch(TEN, each, moved(each, 5), allow_offset=True)
    assert facts(error) == (1, "not found", 2, b"2\n", None)


def test_a_hunk_without_old_lines_behind_another_is_not_found() -> None:
    error = mismatch(TEN, FIVE, hunk(0, 1, b"+x\n"), allow_offset=True)
    assert facts(error) == (1, "not found", 1, b"", None)


def test_a_hunk_at_the_beginning_stays_there() -> None:
    (top,) = make_hunks(TEN, b"0\n" + TEN)
    assert apply(TEN + b"#\n", [top], allow_offset=True) == b"0\n" + TEN + b"#\n"
    assert facts(mismatch(b"#\n" + TEN, top, allow_offset=True)) == (0, "not found", 2, b"1\n", None)


def test_a_hunk_at_the_end_moves_with_the_end() -> None:
    (bottom,) = make_hunks(TEN, TEN + b"11\n")
    assert apply(b"#\n" + TEN, [bottom], allow_offset=True) == b"#\n" + TEN + b"11\n"
    assert facts(mismatch(TEN + b"#\n", bottom, allow_offset=True)) == (0, "context differs", 11, b"", b"#\n")
    with pytest.raises(HunkMismatch, match="context differs"):
        offsets(TEN + b"#\n", [bottom])


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (TEN.replace(b"4\n", b"x\n"), (0, "not found", 4, b"4\n", b"x\n")),
        (TEN.replace(b"4\n", b" 4\n"), (0, "not found", 4, b"4\n", b" 4\n")),
        (TEN.replace(b"\n", b"\r\n"), (0, "line endings differ", 2, b"2\n", b"2\r\n")),
        (b"#\n" + TEN.replace(b"\n", b"\r\n"), (0, "not found", 2, b"2\n", b"1\r\n")),
        (TEN[:14], (0, "not found", 8, b"8\n", None)),
        (b"", (0, "not found", 1, b"2\n", None)),
        (b"2\n3\n4\n5\n6\n7\n", (0, "not found", 2, b"2\n", b"3\n")),
    ],
)
def test_there_is_no_fuzz(original: bytes, expected: tuple[int, str, int, bytes, bytes | None]) -> None:
    assert facts(mismatch(original, FIVE, allow_offset=True)) == expected


def test_a_line_without_newline_is_found_only_at_the_end() -> None:
    each = hunk(2, 2, b" 9\n", b"-10", b"+11")
    assert apply(TEN[:-1], [each], allow_offset=True) == TEN[:-3] + b"11"
    assert mismatch(TEN, each, allow_offset=True).reason == "not found"


def test_many_hunks_of_few_lines_are_each_found_once() -> None:
    # Binary numbers: every line occurs thousands of times, every block once. One search per hunk would not end.
    blocks = [b"".join(b"a\n" if at >> bit & 1 else b"b\n" for bit in range(12)) + b"c\n" for at in range(4096)]
    old = b"".join(blocks)
    hunks = [
        hunk(at * 13 + 2, at * 13 + 2, *(b" " + line for line in split(block)), b"+new\n", b" " + split(after)[0])
        for at, (block, after) in enumerate(pairwise(blocks[1:]), 1)
        if at % 2 and split(after)[0] == b"b\n"
    ]
    assert len(hunks) > 1000
    found = offsets(b"#\n" + old, hunks)
    assert found == [0] * len(hunks)


def test_work_that_grows_with_hunks_times_file_is_bounded() -> None:
    """Repetition makes a search slow; any input is done within seconds or refused."""
    import time

    # Each hunk has only one place; at every line before it, a search meets a match of almost the same length.
    lines = b"".join(b"a\n" * 300 + b"%d\n" % at for at in range(400))
    hunks = [
        _hunk(at * 301 + 101, *[(b" ", b"a\n")] * 200, (b"-", b"%d\n" % at), *[(b" ", b"a\n")] * 3) for at in range(399)
    ]
    begun = time.process_time()
    assert offsets(lines, hunks) == [0] * len(hunks)
    assert time.process_time() - begun < 20
    with pytest.raises(HunkMismatch, match="too many hunks for a file of this size"):
        offsets(lines * 10, hunks)


def test_places_are_counted_up_to_a_limit() -> None:
    assert occurrences([b"a\n"] * 1000, [[b"a\n"], [b"b\n"], []]) == [(MAX_PLACES, 0), (0, 0), (0, 0)]


@given(st.text("ab", max_size=40), st.lists(st.text("abc", min_size=1, max_size=6), max_size=8))
@example("aabab", ["ab", "b", "aab", "abab", "bab", "ba", "c", "aababa"])
@example("baaab", ["baa", "aab", "aa", "a"])
@example("ab", ["b", "ab"])
@example("b", ["ab"])
@example("b", ["ab", "aa"])
def test_occurrences_are_counted_as_by_looking_everywhere(text: str, words: list[str]) -> None:
    lines, *sides = ([letter.encode() + b"\n" for letter in word] for word in (text, *words))
    for word, (count, first) in zip(words, occurrences(lines, sides), strict=True):
        places = [at for at in range(len(text)) if text.startswith(word, at)]
        assert count == len(places), word
        assert not places or first == places[0], word


@given(st.lists(st.sampled_from([b"a\n", b"b\n", b"aa\n", b"\n", b"a\r\n"]), max_size=12), st.booleans(), st.data())
def test_a_last_line_without_its_end_stands_at_the_end_alone(
    lines: list[bytes], cut: bool, data: st.DataObject
) -> None:
    if cut and lines:
        lines[-1] = lines[-1][:-1]
        lines = split(b"".join(lines))
    side = data.draw(st.lists(st.sampled_from([b"a\n", b"b\n", b"aa\n", b"\n", b"a"]), min_size=1, max_size=3))
    side = [*(line if line.endswith(b"\n") else line + b"\n" for line in side[:-1]), side[-1]]
    places = [at for at in range(len(lines)) if lines[at : at + len(side)] == side]
    assert occurrences(lines, [side]) == [(len(places), places[0] if places else 0)]


def _hunk(start: int, *lines: tuple[bytes, bytes]) -> Hunk:
    old = sum(tag != b"+" for tag, _ in lines)
    return Hunk(start, old, start, sum(tag != b"-" for tag, _ in lines), lines)


def test_hunks_that_were_found_over_one_another_are_refused() -> None:
    first = _hunk(2, (b" ", b"b\n"), (b"-", b"c\n"), (b" ", b"d\n"))
    second = _hunk(9, (b" ", b"d\n"), (b"-", b"e\n"), (b" ", b"f\n"))
    with pytest.raises(HunkMismatch, match="hunk 2 does not apply at line 4: not found"):
        apply(b"a\nb\nc\nd\ne\nf\n", [first, second], allow_offset=True)


def test_the_third_hunk_that_overlaps_is_the_third() -> None:
    hunks = [_hunk(at, (b" ", b"a\n"), (b"+", b"x\n"), (b" ", b"a\n")) for at in (1, 3, 4)]
    with pytest.raises(ValueError, match="hunk 3 overlaps"):
        apply(b"a\n" * 6, hunks)


def test_a_hunk_past_the_end_names_the_line_after_the_last() -> None:
    with pytest.raises(HunkMismatch, match="at line 4: past the end"):
        apply(b"a\nb\nc\n", [Hunk(9, 0, 10, 1, ((b"+", b"x\n"),))])


def test_line_endings_differ_in_long_lines_too() -> None:
    with pytest.raises(HunkMismatch, match="line endings differ"):
        apply(b"a longer line\r\nb\n", [_hunk(1, (b"-", b"a longer line\n"), (b" ", b"b\n"))])


def test_a_long_hunk_at_the_end_of_a_long_file_is_found() -> None:
    lines = [b"%d\n" % number for number in range(700)]
    hunk = _hunk(301, *((b" ", line) for line in lines[300:]), (b"+", b"x\n"))
    assert apply(b"".join(lines), [hunk], allow_offset=True) == b"".join(lines) + b"x\n"
