"""The explanation of a hunk that does not apply: where it nearly fits, what differs, whether its change exists."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gaudi_patch.series import explain as module
from gaudi_patch.series.explain import Difference, Explanation, Fit, explain, show
from gaudi_patch.series.hunks import Hunk
from tests.support.unified import make_hunks

BODY = b"".join(b"line %d\n" % number for number in range(1, 41))
PATCHED = BODY.replace(b"line 20\n", b"line twenty\n")
(HUNK,) = make_hunks(BODY, PATCHED)  # lines 17 to 23


def said(original: bytes, hunk: Hunk = HUNK) -> list[str]:
    return explain(original, hunk).sentences()


def test_a_changed_context_line_is_named() -> None:
    result = explain(BODY.replace(b"line 18\n", b"other\n"), HUNK)
    assert result == Explanation(
        expected_line=17,
        places=0,
        nearest=Fit(17, 6, 7, (Difference(18, b"line 18\n", b"other\n"),)),
        already=0,
        nearest_new=Fit(
            17, 5, 7, (Difference(18, b"line 18\n", b"other\n"), Difference(20, b"line twenty\n", b"line 20\n"))
        ),
        line_ends="",
        at_beginning=False,
        at_end=False,
    )
    assert result.nearest.similarity == pytest.approx(6 / 7)
    assert result.sentences() == [
        "it nearly fits at line 17: 6 of 7 lines are as expected",
        "line 18: expected 'line 18\\n', found 'other\\n'",
    ]


def test_a_hunk_is_found_where_its_code_moved_to_and_changed() -> None:
    original = b"#\n" * 100 + BODY.replace(b"line 22\n", b"line  22\n")
    assert said(original) == [
        "it nearly fits at line 117: 6 of 7 lines are as expected",
        "line 122: expected 'line 22\\n', found 'line  22\\n' (white space)",
    ]


def test_a_line_too_many_and_a_line_too_few_are_named() -> None:
    original = BODY.replace(b"line 18\n", b"line 18\nnew\n").replace(b"line 22\n", b"")
    assert said(original) == [
        "it nearly fits at line 17: 6 of 7 lines are as expected",
        "line 19: not expected: 'new\\n'",
        "line 23: missing: 'line 22\\n'",
    ]


def test_lines_around_the_hunk_are_none_of_its_business() -> None:
    original = BODY.replace(b"line 16\n", b"a\n").replace(b"line 24\n", b"b\n").replace(b"line 20\n", b"c\n")
    assert explain(original, HUNK).nearest == Fit(17, 6, 7, (Difference(20, b"line 20\n", b"c\n"),))


def test_a_first_or_last_line_that_differs_is_shown_with_what_stands_in_its_place() -> None:
    first = explain(BODY.replace(b"line 17\n", b""), HUNK).nearest
    assert first == Fit(16, 6, 7, (Difference(16, b"line 17\n", b"line 16\n"),))
    last = explain(BODY.replace(b"line 23\n", b""), HUNK).nearest
    assert last == Fit(17, 6, 7, (Difference(23, b"line 23\n", b"line 24\n"),))


def test_a_first_or_last_line_that_the_file_ends_before_is_missing() -> None:
    (top,) = make_hunks(BODY, BODY.replace(b"line 2\n", b"new\n"))
    assert explain(BODY[7:], top).nearest == Fit(1, 4, 5, (Difference(1, b"line 1\n", None),))
    (bottom,) = make_hunks(BODY, BODY.replace(b"line 39\n", b"new\n"))
    assert explain(BODY[:-8], bottom).nearest == Fit(36, 4, 5, (Difference(40, b"line 40\n", None),))


def test_the_change_that_is_there_already_is_found() -> None:
    assert said(b"#\n" + PATCHED)[0] == "the change is already there, at line 18"
    assert explain(b"#\n" + PATCHED, HUNK).nearest_new == Fit(18, 7, 7)


def test_the_change_that_is_there_in_another_form_is_guessed() -> None:
    assert said(PATCHED.replace(b"line 18\n", b"line eighteen\n"))[:2] == [
        "it nearly fits at line 17: 5 of 7 lines are as expected",
        "the patched lines fit better, at line 17 (6 of 7): the file may contain the change in another form",
    ]


def test_a_removal_that_was_made_already_is_found() -> None:
    (removal,) = make_hunks(BODY, BODY.replace(b"line 20\n", b""))
    assert said(BODY.replace(b"line 20\n", b""), removal)[0] == "the change is already there, at line 17"


def test_a_hunk_that_moved_is_found() -> None:
    assert said(b"#\n#\n" + BODY) == ["the expected lines are at line 19, moved by +2 lines"]
    assert said(BODY[7:]) == ["the expected lines are at line 16, moved by -1 lines"]
    assert said(BODY) == ["the expected lines are at line 17"]


def test_a_hunk_that_stands_twice_is_counted() -> None:
    assert said(BODY + b"#\n" + BODY) == ["the expected lines occur in 2 places, first at line 17"]


def test_a_hunk_of_an_edge_that_is_found_elsewhere_is_said_to_belong_there() -> None:
    (top,) = make_hunks(BODY, b"new\n" + BODY)
    assert said(b"#\n" + BODY, top) == [
        "the expected lines are at line 2, moved by +1 lines",
        "but the hunk belongs to the beginning of the file",
    ]
    (bottom,) = make_hunks(BODY, BODY + b"new\n")
    assert said(BODY + b"#\n", bottom) == [
        "the expected lines are at line 38",
        "but the hunk belongs to the end of the file",
    ]


def test_a_hunk_of_the_beginning_that_fits_there_is_not_said_to_have_moved() -> None:
    (top,) = make_hunks(BODY, b"new\n" + BODY)
    assert said(BODY, top) == ["the expected lines are at line 1"]


def test_a_long_hunk_that_moved_far_is_lined_up() -> None:
    (delete,) = make_hunks(BODY, b"")
    original = b"#\n" * 100 + BODY.replace(b"line 5\n", b"x\n") + b"#\n" * 100
    assert explain(original, delete).nearest == Fit(101, 39, 40, (Difference(105, b"line 5\n", b"x\n"),))


def test_many_lines_outvote_one_that_stands_nearer() -> None:
    (delete,) = make_hunks(BODY, b"")
    top = b"".join(b"line %d\n" % number for number in range(1, 11))
    moved = BODY.replace(top, b"x\n" * 10).replace(b"line 40\n", b"x\n")
    nearest = explain(b"#\n" * 45 + b"line 40\n" + b"#\n" * 154 + moved, delete).nearest
    assert (nearest.line, nearest.equal) == (201, 29)
    assert nearest.differences[0] == Difference(201, b"line 1\n", b"x\n")


def test_lines_that_became_fewer_are_missing_behind_those_that_replace_them() -> None:
    original = BODY.replace(b"line 18\nline 19\nline 20\n", b"x\n")
    assert explain(original, HUNK).nearest.differences == (
        Difference(18, b"line 18\n", b"x\n"),
        Difference(19, b"line 19\n", None),
        Difference(19, b"line 20\n", None),
    )


def test_a_file_that_should_be_empty_is_told() -> None:
    (create,) = make_hunks(b"", BODY)
    assert said(b"x\n", create) == ["the hunk expects an empty file"]
    assert said(BODY, create) == ["the change is already there, at line 1", "the hunk expects an empty file"]
    assert explain(b"x\n", create).nearest.similarity == 0
    assert explain(BODY, create).places == 0


def test_a_file_to_be_deleted_that_differs_is_explained() -> None:
    (delete,) = make_hunks(BODY, b"")
    result = explain(BODY.replace(b"line 20\n", b"x\n"), delete)
    assert (result.nearest, result.already) == (Fit(1, 39, 40, (Difference(20, b"line 20\n", b"x\n"),)), 0)


@pytest.mark.parametrize("original", [b"", b"something else\n", b"\n"])
def test_a_file_with_nothing_alike_is_told(original: bytes) -> None:
    assert said(original) == ["nothing in the file resembles the expected lines"]
    assert explain(original, HUNK).nearest == Fit(0, 0, 7)


def test_crlf_in_the_file_is_named_once_and_shown_by_line() -> None:
    original = BODY.replace(b"\n", b"\r\n")
    result = said(original)
    assert result[:3] == [
        "it nearly fits at line 17: 0 of 7 lines are as expected",
        "line ends differ: 40 of the file's 40 lines end in CRLF, the hunk expects LF",
        "line 17: expected 'line 17\\n', found 'line 17\\r\\n' (line end)",
    ]
    assert len(result) == 9


def test_crlf_in_the_patch_is_named() -> None:
    (hunk,) = make_hunks(BODY.replace(b"\n", b"\r\n"), PATCHED.replace(b"\n", b"\r\n"))
    original = BODY.replace(b"line 1\n", b"line 1\r\n")
    assert "line ends differ: 1 of the file's 40 lines end in CRLF, the hunk expects CRLF" in said(original, hunk)


def test_a_missing_newline_at_the_end_is_named() -> None:
    (hunk,) = make_hunks(BODY, BODY.replace(b"line 39\n", b"x\n"))
    assert "only the hunk has a newline at its last line" in said(BODY[:-1], hunk)
    (hunk,) = make_hunks(BODY[:-1], BODY[:-1].replace(b"line 39\n", b"x\n"))
    assert "only the file has a newline at its last line" in said(BODY, hunk)


@pytest.mark.parametrize(
    ("expected", "found", "kind"),
    [
        (None, b"a\n", "extra"),
        (b"a\n", None, "missing"),
        (b"a\n", b"b\n", "content"),
        (b"a\n", b"a\r\n", "line end"),
        (b"a\n", b"a", "line end"),
        (b"a b\n", b"\ta  b\n", "white space"),
        (b"ab\n", b"a b\n", "content"),
        (b"a \n", b"a\n", "white space"),
    ],
)
def test_a_difference_is_of_a_kind(expected: bytes | None, found: bytes | None, kind: str) -> None:
    assert Difference(1, expected, found).kind == kind


def test_reindented_code_is_lined_up() -> None:
    original = b"".join(b"    " + line + b"\n" for line in BODY.split(b"\n")[:-1])
    result = explain(original, HUNK)
    assert (result.nearest.line, result.nearest.equal) == (17, 0)
    assert {difference.kind for difference in result.nearest.differences} == {"white space"}


def test_the_nearest_of_equal_places_is_taken() -> None:
    original = b"#\n" * 10 + b"line 19\nline 21\n" + b"#\n" * 10 + b"line 19\nline 21\n" + b"#\n" * 100
    assert explain(original, HUNK).nearest.line == 21
    assert explain(original, replace(HUNK, old_start=3)).nearest.line == 9


def test_a_rare_line_counts_more_than_common_ones() -> None:
    (hunk,) = make_hunks(b"a\n}\n}\nrare\n}\nold\n}\n", b"a\n}\n}\nrare\n}\nnew\n}\n")
    original = b"}\n}\n#\n}\n#\n}\n" + b"#\n" * 50 + b"#\n#\n#\nrare\n#\n#\n"
    assert explain(original, hunk).nearest.line == 59


def test_a_line_is_shown_without_harm_to_a_terminal() -> None:
    assert show(b"caf\xc3\xa9 \xff\x1b[31m\x00\n") == "'café \\\\xff\\x1b[31m\\x00\\n'"
    assert show("a\u202eb".encode()) == "'a\\u202eb'"
    assert show(b"x" * 120) == repr("x" * 120)
    assert show(b"x" * 121) == repr("x" * 120) + "..."


def test_long_hunks_and_many_differences_are_cut_and_counted() -> None:
    body = b"".join(b"line %d\n" % number for number in range(1000))
    (delete,) = make_hunks(body, b"")
    original = b"".join(b"line %d\n" % number if number % 2 else b"x\n" for number in range(1000))
    nearest = explain(original, delete).nearest
    assert (nearest.line, nearest.equal, nearest.total) == (1, 100, module.MAX_LINES)
    assert (len(nearest.differences), nearest.unlisted) == (module.MAX_DIFFERENCES, 80)
    assert nearest.differences[0] == Difference(1, b"line 0\n", b"x\n")
    assert said(original, delete)[-1] == "and 80 more differences"


def test_only_so_many_places_vote_for_a_common_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(dict[int, float]):
        writes = 0

        def __missing__(self, key: int) -> float:
            return 0.0

        def __setitem__(self, key: int, value: float) -> None:
            type(self).writes += 1
            super().__setitem__(key, value)

    monkeypatch.setattr(module, "defaultdict", lambda kind: Counting() if kind is float else _lists())
    rng = random.Random(1)
    original = b"".join(rng.choice([b"line 19\n", b"line 20\n", b"line 21\n"]) for _ in range(30_000))
    assert explain(original, HUNK).nearest.line
    assert 0 < Counting.writes <= 2 * 7 * module._MAX_VOTES


def _lists() -> dict[bytes, list[int]]:
    from collections import defaultdict

    return defaultdict(list)
