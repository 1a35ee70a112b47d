"""Installations that another tool has patched, partly or wholly."""

from __future__ import annotations

import pytest

from gaudi_patch.errors import Exit
from tests.engine.situations import _write, refusal
from tests.support import scenarios
from tests.support.scenarios import FEW, FEW_PATCHED
from tests.support.tiny import Tiny, tree


@pytest.mark.parametrize("patched", [{"lmcache/engine.py"}, {"lmcache/old.py"}, {"lmcache/gaudi/__init__.py"}])
def test_a_partial_state_is_told_per_file_completed_and_taken_back(patched: set[str], few: Tiny) -> None:
    """case_30 case_37 case_38: left by another tool; every file is exactly pristine or patched."""
    pristine = tree(few.site)
    for path in patched:
        _write(few.site / path, FEW_PATCHED[path])
    partial = tree(few.site)
    result = few.check()
    assert refusal(result) == (Exit.REFUSED, "partial")
    assert {one["path"]: one["state"] for one in result.data["files"]} == {
        path: "patched" if path in patched or path == "lmcache/tool.sh" else "pristine" for path in FEW_PATCHED
    }
    assert few.apply(dry_run=True).exit is Exit.OK
    assert tree(few.site) == partial
    assert few.apply().exit is Exit.OK
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]
    assert {name for name in tree(few.site) if not name.endswith(".pyc")} == {
        name for name in pristine if not name.endswith(".pyc")
    }

    for path in patched:
        _write(few.site / path, FEW_PATCHED[path])
    assert few.rollback().exit is Exit.OK
    assert few.check().exit is Exit.PENDING
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]


def test_unchecked_bytecode_of_a_file_that_something_else_patched_does_not_come_back(few: Tiny) -> None:
    """case_46: a .pyc of the patched code next to the pristine source would run after a rollback."""
    engine = few.site / "lmcache/engine.py"
    _write(engine, FEW_PATCHED["lmcache/engine.py"])
    scenarios.compile_all(few.site)
    assert few.apply().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert engine.read_bytes() == FEW["lmcache/engine.py"]
    assert not list((few.site / "lmcache/__pycache__").glob("engine.*"))


def test_patched_by_something_else_is_patched_and_can_be_rolled_back(few: Tiny) -> None:
    """case_29: all hashes match the series: exit 0, nothing written; rollback applies the hunks in reverse."""
    for path, data in FEW_PATCHED.items():
        _write(few.site / path, data)
    scenarios.compile_all(few.site)
    before = tree(few.site, times=True)
    result = few.check()
    assert result.exit is Exit.OK
    assert any("something other" in text for text in result.warnings)
    assert few.apply().exit is Exit.OK
    assert tree(few.site, times=True) == before
    assert few.rollback().exit is Exit.OK
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]
    assert not (few.site / "lmcache/gaudi").exists()
    assert few.check().exit is Exit.PENDING


def test_bytecode_that_hides_what_something_else_patched_is_no_success(few: Tiny) -> None:
    """case_46: another tool patched the sources and left unchecked bytecode of the old code, which still runs."""
    legacy = few.site / "lmcache/old.pyc"
    legacy.write_bytes(b"legacy")
    for path, data in FEW_PATCHED.items():
        _write(few.site / path, data)
    stale = next((few.site / "lmcache/__pycache__").glob("engine.*"))
    result = few.check()
    assert refusal(result) == (Exit.REFUSED, "stale-bytecode")
    assert [one.split()[0] for one in result.errors[0].details] == [str(stale), str(legacy)]
    assert few.apply(dry_run=True).exit is Exit.OK
    assert stale.exists()
    assert few.apply().exit is Exit.OK
    assert not stale.exists()
    assert not legacy.exists()
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert few.check().exit is Exit.PENDING
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]
