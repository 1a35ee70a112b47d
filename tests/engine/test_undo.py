"""An undo that cannot finish: it continues, names what it left, exits 6, and the next run completes it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)


class Broken(Disk):
    """Fails once at ``first``, and from then on at each step that ``again`` names."""

    def __init__(self, first: tuple[str, Path], *again: tuple[str, Path]) -> None:
        self.first, self.again, self.failing = first, again, False

    def step(self, name: str, path: Path) -> None:
        if self.failing and (name, path) in self.again:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        if not self.failing and (name, path) == self.first:
            self.failing = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def last_sync(few: Tiny) -> tuple[str, Path]:
    return ("fsync-dir", few.site / "lmcache")


def test_every_other_target_is_put_back_and_the_failed_ones_are_named(few: Tiny) -> None:
    """The tree is mixed, and the exit code shows it: 4 would mean that nothing was changed."""
    before = tree(few.site)
    engine, old = few.site / "lmcache/engine.py", few.site / "lmcache/old.py"
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Broken(last_sync(few), ("replace", engine), ("replace", old)))
    error = caught.value
    assert (error.exit, error.code) == (Exit.HUMAN, "undo-failed")
    assert "2 files could not be restored" in error.message
    assert f"the journal is kept in {few.home}" in error.message
    for path in (engine, old):
        assert any(line.startswith(f"not restored: {path}: ") for line in error.details)
    assert few.sides() == {
        "lmcache/engine.py": "patched",
        "lmcache/old.py": "patched",
        "lmcache/gaudi/__init__.py": "pristine",
        "lmcache/tool.sh": "patched",  # the bytes are the same on both sides
    }
    assert [one.code for one in few.check().errors] == ["interrupted"]
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_a_temporary_file_that_cannot_be_removed_stops_nothing(few: Tiny) -> None:
    """Every target is restored; leftovers are named, and the next run removes them."""
    before = tree(few.site)
    engine, stuck = few.site / "lmcache/engine.py", few.site / f"lmcache/.gaudi-patch-{os.getpid():x}-0.tmp"
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Broken(("replace", engine), ("unlink", stuck)))
    error = caught.value
    assert (error.exit, error.code, error.file) == (Exit.HUMAN, "undo-failed", str(stuck))
    assert "every target was restored, but other files were left behind" in error.message
    now = {name: node for name, node in tree(few.site).items() if "journal" not in name and ".tmp" not in name}
    assert now == before
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_a_journal_that_could_not_be_written_is_not_said_to_be_kept(few: Tiny) -> None:
    """No target was touched, and there is no journal."""
    before = tree(few.site)
    journal = few.home / "journal.json"
    with pytest.raises((GaudiPatchError, OSError)) as caught:
        few.apply(Broken(("replace", journal), ("unlink", few.home / "journal.json.new"), ("rmdir", few.home)))
    assert "is kept" not in str(caught.value)
    assert {name: node for name, node in tree(few.site).items() if "journal" not in name} == before
    assert few.apply().exit is Exit.OK


def test_an_undo_without_a_journal_that_did_not_finish_says_that_none_is_kept(few: Tiny) -> None:
    before = tree(few.site)
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Broken(("replace", few.home / "journal.json"), last_sync(few)))
    error = caught.value
    assert (error.exit, error.code) == (Exit.HUMAN, "undo-failed")
    assert "every target was restored" in error.message
    assert "no journal could be kept" in error.message
    assert {name: node for name, node in tree(few.site).items() if "journal" not in name} == before
    assert few.apply().exit is Exit.OK


def test_a_recovery_that_fails_names_its_files_and_the_next_run_ends_it(few: Tiny) -> None:
    before = tree(few.site)
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / "journal.json"))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    engine, old = few.site / "lmcache/engine.py", few.site / "lmcache/old.py"
    with pytest.raises(GaudiPatchError) as caught:
        few.rollback(Broken(("read", old), ("replace", engine)))
    error = caught.value
    assert (error.exit, error.code) == (Exit.HUMAN, "undo-failed")
    assert {line.split(": ")[1] for line in error.details} == {str(engine), str(old)}
    assert "undoing an interrupted apply did not finish" in error.message
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_a_directory_that_takes_a_targets_place_stops_no_other(few: Tiny) -> None:
    """A target replaced by a directory is someone else's work: it is named, and everything else restored."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / "journal.json"))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    engine = few.site / "lmcache/engine.py"
    engine.unlink()
    engine.mkdir()
    with pytest.raises(GaudiPatchError, match="not a regular file") as caught:
        few.rollback()
    assert (caught.value.exit, caught.value.file) == (Exit.HUMAN, str(engine))
    assert (few.site / "lmcache/old.py").exists()
    assert not (few.site / "lmcache/gaudi").exists()


def test_an_end_that_is_not_durable_is_a_warning_since_the_changes_hold(few: Tiny) -> None:
    """Removing the journal completes the commit: no later failure undoes it."""

    class AfterCommit(Disk):
        done = False

        def step(self, name: str, path: Path) -> None:
            if self.done and (name, path) == ("fsync-dir", few.home):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            self.done = self.done or (name, path) == ("unlink", few.home / "journal.json")

    result = few.apply(AfterCommit())
    assert result.exit is Exit.OK
    assert any("may not be durable" in text for text in result.warnings)
    assert set(few.sides().values()) == {"patched"}
    assert few.check().exit is Exit.OK
