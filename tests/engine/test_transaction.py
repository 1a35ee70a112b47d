"""The transaction: order of fsync and rename, undo, leftovers."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.engine import journal, transaction
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.transactions import at
from tests.support import tiny
from tests.support.faults import KILLED, FailAt, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree


def is_temp(path: Path) -> bool:
    return path.name.startswith(".gaudi-patch-")


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_data_is_durable_before_the_first_rename_and_folders_after_the_last(verb: str, few: Tiny) -> None:
    """case_5: power may fail at any time; the journal's promises are on disk before anything relies on them."""
    if verb == "rollback":
        few.apply()
    recorder = Recorder()
    assert getattr(few, verb)(recorder).exit is Exit.OK
    calls = recorder.calls
    journal_file, undo = few.home / journal.FILE, few.home / journal.UNDO

    def all_of(name: str, where: Callable[[Path], bool] = lambda _: True) -> list[int]:
        return [index for index, (called, path) in enumerate(calls) if called == name and where(path)]

    in_home = lambda path: path.is_relative_to(few.home)  # noqa: E731
    touched = [
        index
        for index, (name, path) in enumerate(calls)
        if name in ("replace", "unlink") and not in_home(path) and not is_temp(path)
    ]
    first, last = touched[0], touched[-1]
    journalled = all_of("replace", at(journal_file))
    committed = all_of("unlink", at(journal_file))
    assert len(journalled) == 2, "once while staging, once as the targets are about to be touched"
    assert len(committed) == 1
    # The first journal is durable before anything is staged.
    synced_home = all_of("fsync-dir", at(few.home))
    staged = all_of("write", is_temp)
    assert journalled[0] < synced_home[0] < all_of("fsync-dir", at(few.home.parent))[0] < staged[0]
    # Staged files and the undo file are durable before the second journal, and that one before the first rename.
    assert len(all_of("write", is_temp)) == len(all_of("fsync", is_temp))
    assert max(*all_of("fsync", is_temp), *all_of("fsync", at(undo))) < journalled[1]
    assert any(journalled[1] < index < first for index in synced_home)
    # After the last rename: fsync directories, read every target back, commit, make it durable, remove undo.
    changed = {calls[index][1] for index in touched}
    for folder in {path.parent for path in changed if path.parent.is_dir()}:
        assert any(last < index < committed[0] for index in all_of("fsync-dir", at(folder))), folder
    for path in changed:
        assert any(last < index < committed[0] for index in all_of("read", at(path))), path
    assert any(committed[0] < index < all_of("unlink", at(undo))[0] for index in synced_home)
    # Nothing is written after the commit.
    assert max(all_of("write")) < committed[0]


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_an_undo_is_durable_before_its_journal_goes(verb: str, few: Tiny) -> None:
    """case_5: the same order: restored files, their directories, the journal, then the undo bytes."""
    if verb == "rollback":
        few.apply()
    recorder = Recorder()
    getattr(few, verb)(recorder)
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    getattr(few, "rollback" if verb == "apply" else "apply")()
    assert in_child(lambda: getattr(few, verb)(KillAt(commit))) == KILLED
    undo = Recorder()
    transaction.recover(few.ground, undo)
    names = [(name, path) for name, path in undo.calls if name != "read"]
    done = names.index(("unlink", few.home / journal.FILE))
    put_back = [index for index, (name, path) in enumerate(names[:done]) if name in ("replace", "unlink", "rmdir")]
    assert len(put_back) > 5
    for index in put_back:
        folder = names[index][1].parent
        if folder.is_dir():
            assert ("fsync-dir", folder) in names[put_back[-1] : done], names[index]
    written = [path for name, path in names[:done] if name == "write"]
    assert written == [path for name, path in names[:done] if name == "fsync"]
    assert ("fsync-dir", few.home) == names[done + 1]
    assert names[done + 2] == ("unlink", few.home / journal.UNDO)


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_killed_while_undoing_an_interrupt_at_the_commit(verb: str, few: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_2 case_11: Ctrl-C comes after the journal is gone; the undo writes it again before it begins."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    other = "rollback" if verb == "apply" else "apply"
    if verb == "rollback":
        few.apply()
    start = tree(few.site)
    recorder = Recorder()
    getattr(few, verb)(recorder)
    end = tree(few.site)
    after_commit = recorder.calls.index(("unlink", few.home / journal.FILE)) + 1
    getattr(few, other)()
    assert tree(few.site) == start

    class Both(KillAt):
        """Raises Ctrl-C right after the journal is unlinked, and kills the run a number of steps later."""

        def step(self, name: str, path: Path) -> None:
            super().step(name, path)
            if self.count == after_commit + 1:
                raise KeyboardInterrupt

    for steps in range(1, 200):

        def work(steps: int = steps) -> None:
            with contextlib.suppress(KeyboardInterrupt):
                getattr(few, verb)(Both(after_commit + steps))

        code = in_child(work)
        if [error.code for error in few.check().errors] != ["interrupted"]:
            whole = {name: node for name, node in tree(few.site).items() if "journal" not in name}
            assert whole in (start, end)
        getattr(few, other)()
        assert tree(few.site) == start
        if code == 0:
            break
    assert code == 0
    assert steps > 20


def test_an_undo_that_fails_is_told_with_both_reasons_and_keeps_the_journal(few: Tiny) -> None:
    """case_4: exit 6; each file named, where the journal is, and what to do once the disk problem is fixed."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    first = recorder.calls.index(("replace", few.site / "lmcache/engine.py"))
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(FailAt(first + 1, 5, from_then_on=True))
    error = caught.value
    assert (error.exit, error.code) == (Exit.HUMAN, "undo-failed")
    assert error.message.count("Input/output error") == 2
    assert f"the journal is kept in {few.home}" in error.message
    assert any(str(few.site / "lmcache/engine.py") in line for line in error.details)
    assert (few.home / journal.FILE).exists()
    few.rollback()

    class InterruptedAndBroken(FailAt):
        def step(self, name: str, path: Path) -> None:
            if self.count == self.at:
                self.count += 1
                raise KeyboardInterrupt
            super().step(name, path)

    with pytest.raises(GaudiPatchError, match="KeyboardInterrupt; and undoing it did not finish"):
        few.apply(InterruptedAndBroken(first + 1, 5, from_then_on=True))
    assert few.rollback().exit is Exit.OK


def test_no_file_of_ours_is_left_in_the_package(few: Tiny) -> None:
    """case_10: files are replaced one by one, directories never; no temporary file stays."""
    before = tree(few.site)
    few.apply()
    added = {name for name in tree(few.site) if name not in before}
    state = f"{few.dist_info.name}/gaudi-patch"
    assert {name for name in added if not name.startswith(state)} == {
        "lmcache/gaudi",
        "lmcache/gaudi/__init__.py",
        "lmcache/gaudi/__pycache__",
        next(name for name in added if name.endswith(".pyc")),
    }
    few.rollback()
    assert tree(few.site) == before


def test_an_insertion_is_not_applied_twice_and_nothing_is_written_again(tmp_path: Path) -> None:
    """case_29 case_34: insertion at the top, deletion, white space only; applied again: no step, no mtime changed."""
    before = {
        "lmcache/__init__.py": b"a = 1\nb = 2\n",
        "lmcache/gone.py": b"x\ny\nz\n",
        "lmcache/space.py": b"if 1:\n  x\n",
    }
    after = {
        "lmcache/__init__.py": b"import os\na = 1\nb = 2\n",
        "lmcache/gone.py": b"x\nz\n",
        "lmcache/space.py": b"if 1:\n    x\n",
    }
    target = tiny.make(tmp_path, before, after)
    assert target.apply().exit is Exit.OK
    once = tree(target.site, times=True)
    for _ in range(3):
        recorder = Recorder()
        result = target.apply(recorder)
        assert (result.exit, result.data["changed"]) == (Exit.OK, False)
        assert recorder.calls == []
    assert tree(target.site, times=True) == once
    assert target.rollback().exit is Exit.OK
    recorder = Recorder()
    assert target.rollback(recorder).exit is Exit.OK
    assert recorder.calls == []


def test_a_dry_run_takes_no_step(few: Tiny) -> None:
    """case_40: not even a mode is changed, and no lock is taken."""
    before = tree(few.site, times=True)
    recorder = Recorder()
    result = few.apply(recorder, dry_run=True)
    assert (result.exit, result.data["changed"], recorder.calls) == (Exit.OK, False, [])
    assert {one["path"]: one["action"] for one in result.data["planned"]} == {
        "lmcache/engine.py": "modify",
        "lmcache/gaudi/__init__.py": "create",
        "lmcache/old.py": "delete",
        "lmcache/tool.sh": "modify",
    }
    assert tree(few.site, times=True) == before


def test_a_change_of_mode_alone_is_applied_and_rolled_back(few: Tiny) -> None:
    """case_40: a patch that only changes a mode."""
    tool = few.site / "lmcache/tool.sh"
    few.apply()
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755
    few.rollback()
    assert stat.S_IMODE(tool.stat().st_mode) == 0o644
