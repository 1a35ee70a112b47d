"""The judge itself: it finds each kind of fault, and accepts a correct run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.judge import JOURNAL, Case, Finding, judge, view
from tests.rig.place import DIST_INFO, EDITED, Place
from tests.rig.trace import HUNG, Call, Done

BEFORE, AFTER = b"A = 1\n", b"A = 2\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place with two files and RECORD, pristine; both files differ in "new"."""
    made = Place(tmp_path)
    for name, data in (("lmcache/a.py", BEFORE), ("lmcache/b.py", BEFORE), (f"{DIST_INFO}/RECORD", b"1\n")):
        write(made, name, data)
    made.states["pristine"] = [made.ours()]
    patched(made)
    made.states["new"] = [made.ours()]
    pristine(made)
    return made


def write(place: Place, name: str, data: bytes) -> None:
    file = place.site / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    os.utime(file, ns=(0, 0))


def pristine(place: Place) -> None:
    write(place, "lmcache/a.py", BEFORE)
    write(place, "lmcache/b.py", BEFORE)


def patched(place: Place) -> None:
    write(place, "lmcache/a.py", AFTER)
    write(place, "lmcache/b.py", AFTER)


def half(place: Place) -> None:
    write(place, "lmcache/a.py", AFTER)


def half_with_journal(place: Place) -> None:
    half(place)
    write(place, JOURNAL.removeprefix("site/") + "journal.json", b"{}")


def torn(place: Place) -> None:
    patched(place)
    write(place, "lmcache/b.py", AFTER[:3])


def nothing(place: Place) -> None:
    """Leave everything as it was."""


def left_behind(place: Place) -> None:
    write(place, "lmcache/.gaudi-patch-1-0.tmp", AFTER)


def found(
    place: Place, what: Callable[[Place], None], code: int, text: str = "", calls: list[Call] | None = None
) -> set[str]:
    before = view(place)
    what(place)
    done = Done(code, text if text.startswith("{") else "", text, calls or [])
    return {kind for kind, _ in findings(place, before, done)}


def findings(place: Place, before: object, done: Done) -> list[Finding]:
    return judge(Case(place, "new", ("pristine", "new")), before, done, view(place))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        (patched, 0, "applied series 1; verified from disk"),
        (nothing, 4, "No space left on device; nothing was changed"),
        (nothing, 4, "everything was rolled back"),
        (nothing, 130, "interrupted; nothing was changed"),
        (patched, 143, "terminated; series 1 is applied"),
        (patched, 6, "series 1 is applied; but it could not be re-read"),
        (half_with_journal, 6, "not restored: /x/lmcache/a.py; the journal is kept in /x"),
        (half_with_journal, -9, ""),
        (nothing, 1, '{"data": {"state": "pristine"}, "exit_code": 1, "status": "error"}'),
    ],
)
def test_a_run_that_tells_the_truth_is_let_go(
    place: Place, what: Callable[[Place], None], code: int, text: str
) -> None:
    assert found(place, what, code, text) == set()


@pytest.mark.parametrize(
    ("kind", "what", "code", "text"),
    [
        ("lie", nothing, 0, "applied series 1; verified from disk"),
        ("lie", half_with_journal, 0, ""),
        ("lie", patched, 4, "Input/output error; nothing was changed"),
        ("lie", patched, 130, "interrupted; no file is left half-way"),
        ("lie", half_with_journal, 4, "undoing it failed"),
        ("lie", half_with_journal, 6, "the journal is kept"),
        ("lie", nothing, 6, "manual repair needed"),
        ("lie", nothing, 4, "undoing it failed; the journal is kept in /x"),
        ("lie", nothing, 3, "Traceback (most recent call last):"),
        ("lie", nothing, 5, ""),
        ("lie", nothing, 4, '{"data": {"state": "patched"}, "exit_code": 4, "status": "error"}'),
        ("lie", nothing, 4, '{"data": {}, "exit_code": 0, "status": "error"}'),
        ("lie", nothing, 4, '{"data": '),
        ("third", half, 4, ""),
        ("third", half, -9, ""),
        ("third", torn, -9, ""),
        ("litter", left_behind, 4, "nothing was changed"),
        ("bug", nothing, 70, ""),
        ("hang", nothing, HUNG, ""),
    ],
)
def test_each_fault_is_convicted(place: Place, kind: str, what: Callable[[Place], None], code: int, text: str) -> None:
    assert kind in found(place, what, code, text)


def test_a_write_elsewhere_is_convicted_by_the_trace_alone(place: Place) -> None:
    elsewhere = Call(1, "write", 0, True, 0, "", place.top / "outside/passwd", None)
    assert found(place, nothing, 4, calls=[elsewhere]) == {"outside"}
    failed = elsewhere._replace(error=13)
    assert found(place, nothing, 4, calls=[failed]) == set()


def test_an_edit_that_is_nowhere_any_more_is_convicted_and_a_half_saved_one(place: Place) -> None:
    write(place, "lmcache/a.py", EDITED)
    place.states["edited"] = [place.ours()]
    before, case = view(place), Case(place, "pristine", ("edited", "pristine"))
    pristine(place)
    done = Done(0, "", "", [])
    assert "third" in {kind for kind, _ in judge(case, before, done, view(place))}
    saved = place.top / "saved/a.py.gaudi-patch-saved-0123456789ab"
    saved.parent.mkdir()
    saved.write_bytes(EDITED)
    assert judge(case, before, done, view(place)) == []
    saved.write_bytes(EDITED[:5])
    assert "third" in {kind for kind, _ in judge(case, before, done, view(place))}


def test_json_that_says_changed_where_nothing_was_is_convicted(place: Place) -> None:
    text = json.dumps({"data": {"changed": True}, "exit_code": 0, "status": "ok"})
    assert found(place, nothing, 0, text) == {"lie"}
