"""Read state.json and journal.json strictly: whatever they contain, they are understood or refused with exit 6."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import journal, strict
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny

#: Unexpected values for any field.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, "", "x", "0" * 64, "\0", "\ud800", "\udcff", "\x1b[31m",
    "../x", "/etc/passwd", "lmcache/engine.py", "lmcache", "7777", "x" * 5000, [], {}, [[]],
    [0, 0], {"": {}}, [None, None],
]  # fmt: skip


@pytest.fixture
def documents(tmp_path: Path) -> tuple[Tiny, dict[str, Any], dict[str, Any]]:
    """Return a target with a state and the journal of a killed rollback, and both documents."""
    target = scenarios.few(tmp_path)
    target.apply()
    recorder = Recorder()
    target.rollback(recorder)
    target.apply()
    commit = recorder.calls.index(("unlink", target.home / journal.FILE))
    first = recorder.calls.index(("replace", target.site / "lmcache/engine.py"))
    assert first < commit
    assert in_child(lambda: target.rollback(KillAt(first))) == KILLED
    state = json.loads((target.state_dir / "state.json").read_bytes())
    return target, state, json.loads((target.home / journal.FILE).read_bytes())


def mutants(document: Any) -> Iterator[Any]:
    """Yield the document with each value, at any depth, replaced by each odd value, and with each key removed."""
    inner: Any = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(inner):
        for odd in ODD:
            changed = copy.copy(document)
            changed[key] = odd
            yield changed
        changed = copy.copy(document)
        del changed[key]
        yield changed
        if isinstance(value, (dict, list)):
            for inside in mutants(value):
                changed = copy.copy(document)
                changed[key] = inside
                yield changed


def outcome(work: Callable[[], object]) -> object:
    """Return the result of ``work``, or the error that a user would see; any other error is a bug."""
    try:
        return work()
    except GaudiPatchError as error:
        return error


def test_each_odd_value_in_a_state_is_understood_or_refused(documents: tuple[Tiny, dict[str, Any], Any]) -> None:
    target, state, _ = documents
    file = target.state_dir / "state.json"
    refused = 0
    for mutant in mutants(state):
        file.write_text(json.dumps(mutant))
        found = outcome(lambda: applied_state.load(target.ground))
        if isinstance(found, GaudiPatchError):
            refused += 1
            assert (found.exit, found.code) in {(Exit.HUMAN, "state-damaged"), (Exit.REFUSED, "state-newer")}
            assert found.file == str(file)
        else:
            assert isinstance(found, applied_state.Applied)
            for path in [*found.files, *found.bytecode]:
                assert target.ground.bounds.holds(target.site / path)
            found.to_bytes()
    assert refused > 1000


def test_each_odd_value_in_a_journal_is_understood_or_refused(documents: tuple[Tiny, Any, dict[str, Any]]) -> None:
    target, _, document = documents
    file = target.home / journal.FILE
    refused = 0
    document["entries"] = document["entries"][:3]
    for mutant in mutants(document):
        file.write_text(json.dumps(mutant))
        found = outcome(lambda: journal.load(target.ground))
        if isinstance(found, GaudiPatchError):
            refused += 1
            assert (found.exit, found.code, found.file) == (Exit.HUMAN, "journal-damaged", str(file))
        else:
            assert isinstance(found, journal.Journal)
            for entry in found.entries:
                assert target.ground.bounds.holds(entry.path)
                assert target.ground.bounds.holds(entry.temp)
            for path in [*found.created, *(path for path, _ in found.removed)]:
                assert target.ground.bounds.holds_directory(path)
            found.to_bytes(target.site)
    assert refused > 1000


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"1", b'"x"', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"{", b'{"a": NaN}', b'{"a": 1e9}',
        b'{"a": -Infinity}', b'{"a": 0.1}', b"9" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}", b"[" * 500_000,
        b'{"a":' * 200_000,
    ],
    ids=lambda data: repr(data[:16]),
)  # fmt: skip
def test_what_is_no_object_of_whole_numbers_is_a_value_error(data: bytes) -> None:
    """Never a RecursionError, another kind of UnicodeError, or a number that takes minutes to parse."""
    started = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        strict.document(data)
    assert time.process_time() - started < 5


def test_a_value_of_another_kind_is_named_and_cut_short() -> None:
    with pytest.raises(ValueError, match="the mode of x is 7, not a mode"):
        strict.mode(7, "the mode of x")
    with pytest.raises(ValueError, match=r"^x is 'yyy.{0,80}\.\.\., not a sha256$"):
        strict.digest("y" * 10_000, "x")
    with pytest.raises(ValueError, match="x is list, not an object"):
        strict.mapping([], "x")
    with pytest.raises(ValueError, match="not a number from 0 to 5"):
        strict.integer(True, "x", 0, 5)
    assert strict.text("a\udcff", "a name of undecodable bytes") == "a\udcff"
