"""The order of a transaction's steps, what it keeps of a file, and what it refuses to overwrite."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.disk import Disk, Image
from gaudi_patch.engine import journal, transaction
from gaudi_patch.engine.transaction import Change
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios, tiny
from tests.support.faults import KILLED, FailAt, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)


class Hook(Disk):
    """Calls ``action`` before each step that ``when`` matches."""

    def __init__(self, name: str, where: Callable[[Path], bool], action: Callable[[], None], times: int = 1) -> None:
        self.name, self.where, self.action, self.left = name, where, action, times

    def step(self, name: str, path: Path) -> None:
        if self.left and name == self.name and self.where(path):
            self.left -= 1
            self.action()


def _raise(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def at(target: Path) -> Callable[[Path], bool]:
    return lambda path: path == target


def is_temp(path: Path) -> bool:
    return path.name.startswith(".gaudi-patch-")


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_data_is_durable_before_the_first_rename_and_folders_after_the_last(verb: str, few: Tiny) -> None:
    """case_5: power may fail at any time; what the journal promises is on disk before it is relied on."""
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
    # Every staged file and the undo file are durable before the second journal, and that before the first rename.
    assert len(all_of("write", is_temp)) == len(all_of("fsync", is_temp))
    assert max(*all_of("fsync", is_temp), *all_of("fsync", at(undo))) < journalled[1]
    assert any(journalled[1] < index < first for index in synced_home)
    # Folders after the last rename, then the read back of every target, then the commit, durable before undo goes.
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
    """case_5: the same order: what was put back, its folders, then the journal, then the bytes to put back."""
    if verb == "rollback":
        few.apply()
    recorder = Recorder()
    getattr(few, verb)(recorder)
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    getattr(few, "rollback" if verb == "apply" else "apply")()
    assert in_child(lambda: getattr(few, verb)(KillAt(commit))) == KILLED
    undo = Recorder()
    transaction.recover(few.home, few.site, undo)
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
    """case_2 case_11: the journal is gone already when Ctrl-C comes; the undo writes it again before it begins."""
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
        """Ctrl-C right after the journal is unlinked, and killed so many steps later."""

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
    """case_4: exit 4; where the journal is, and what to do when the disk is well again."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    first = recorder.calls.index(("replace", few.site / "lmcache/engine.py"))
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(FailAt(first + 1, 5, from_then_on=True))
    error = caught.value
    assert (error.exit, error.code, error.file) == (Exit.ENVIRONMENT, "undo-failed", str(few.home))
    assert error.message.count("Input/output error") == 2
    assert (few.home / journal.FILE).exists()
    few.rollback()

    class InterruptedAndBroken(FailAt):
        def step(self, name: str, path: Path) -> None:
            if self.count == self.at:
                self.count += 1
                raise KeyboardInterrupt
            super().step(name, path)

    with pytest.raises(GaudiPatchError, match="KeyboardInterrupt; and undoing it failed too"):
        few.apply(InterruptedAndBroken(first + 1, 5, from_then_on=True))
    assert few.rollback().exit is Exit.OK


def test_no_file_of_ours_is_left_in_the_package(few: Tiny) -> None:
    """case_10: files are replaced one by one, folders never; no temporary file stays."""
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
    """case_29 case_34: insertion at the top, deletion, white space alone; applied again: no step, no mtime moved."""
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
    """case_40: not even a mode is changed, and nothing is locked."""
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
    """case_40"""
    tool = few.site / "lmcache/tool.sh"
    few.apply()
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755
    few.rollback()
    assert stat.S_IMODE(tool.stat().st_mode) == 0o644


class Interrupted(Disk):
    """Raises ``error`` before step ``number``."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.left, self.error = number, error

    def step(self, name: str, path: Path) -> None:
        self.left -= 1
        if self.left == -1:
            raise self.error


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_ctrl_c_at_every_step_leaves_a_whole_state(verb: str, few: Tiny, tmp_path: Path) -> None:
    """case_11: undone up to the commit; after it, only litter may be left for the next run."""
    if verb == "rollback":
        few.apply()
    start = tree(few.site)
    committed = False
    for number in range(1000):
        try:
            getattr(few, verb)(Interrupted(number, KeyboardInterrupt()))
        except KeyboardInterrupt:
            after = tree(few.site)
            if after == start:
                assert not committed
                continue
            committed = True
            assert few.check().exit is (Exit.OK if verb == "apply" else Exit.PENDING)
            getattr(few, "rollback" if verb == "apply" else "apply")()
        else:
            break
    assert committed
    assert number > 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_undoes_and_is_the_exit_code(
    number: signal.Signals, code: int, few: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    """case_11: at any step of a real run; no traceback; two signals do no more harm than one."""
    before = tree(few.site)
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    seen = set()
    for at_step in range(0, len(recorder.calls), 3):
        child = in_child(lambda at_step=at_step: _signalled(few, number, at_step))
        state = few.check()
        assert not (few.home / journal.FILE).exists()
        seen.add((child, state.exit))
        if state.exit is Exit.OK:
            few.rollback()
        assert tree(few.site) == before
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out
    assert {one for one, _ in seen} == {code}
    assert (code, Exit.PENDING) in seen


def _signalled(target: Tiny, number: signal.Signals, at_step: int) -> None:
    """`gaudi-patch apply` in this process, which gets the signal twice from ``at_step`` on."""
    from gaudi_patch.cli.run import guarded

    count = 0

    def step(self: Disk, name: str, path: Path) -> None:
        nonlocal count
        if count in (at_step, at_step + 1):
            os.kill(os.getpid(), number)
        count += 1

    Disk.step = step  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = guarded("apply", lambda: target.apply(), False)
    os._exit(int(result.exit))


def test_another_program_is_not_overwritten(few: Tiny) -> None:
    """case_64: a target changed between planning and its replacement: exit 1, its bytes kept, the rest as it was."""
    before = tree(few.site)
    engine = few.site / "lmcache/engine.py"
    theirs = b"# pip was here\n"
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Hook("read", at(engine), lambda: _replace(engine, theirs)))
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "changed-meanwhile")
    assert caught.value.file == str(engine)
    assert engine.read_bytes() == theirs
    assert not few.home.exists()
    engine.write_bytes(scenarios.FEW["lmcache/engine.py"])
    assert tree(few.site) == before


def _replace(path: Path, data: bytes) -> None:
    temp = path.with_name("theirs")
    temp.write_bytes(data)
    temp.replace(path)


def test_bytecode_that_python_writes_meanwhile_does_no_harm(few: Tiny) -> None:
    """case_46: a running interpreter may write a .pyc at any time; ours replaces it."""
    pyc = next((few.site / "lmcache/__pycache__").glob("engine.*.pyc"))
    engine = few.site / "lmcache/engine.py"
    assert few.apply(Hook("read", at(engine), lambda: pyc.write_bytes(b"theirs"))).exit is Exit.OK
    assert pyc.read_bytes() != b"theirs"


def test_a_target_edited_after_a_kill_needs_a_human(few: Tiny) -> None:
    """case_2: neither side's bytes: exit 6, the file named, its edit kept, the others put back, the journal kept."""
    before = tree(few.site)
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    engine = few.site / "lmcache/engine.py"
    engine.write_bytes(b"# mine\n")
    for verb in (few.apply, few.rollback):
        with pytest.raises(GaudiPatchError, match="edited since") as caught:
            verb()
        assert (caught.value.exit, caught.value.code, caught.value.file) == (Exit.HUMAN, "third-state", str(engine))
    assert engine.read_bytes() == b"# mine\n"
    assert [error.code for error in few.check().errors] == ["interrupted"]
    now = {name: node for name, node in tree(few.site).items() if "journal" not in name}
    assert {name for name in {*now, *before} if now.get(name) != before.get(name)} == {"lmcache/engine.py"}
    engine.write_bytes(scenarios.FEW["lmcache/engine.py"])
    few.rollback()
    assert tree(few.site) == before


def test_every_file_that_was_edited_after_a_kill_is_named(few: Tiny) -> None:
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    edited = [few.site / "lmcache/engine.py", few.site / "lmcache/gaudi/__init__.py"]
    for path in edited:
        path.write_bytes(b"# mine\n")
    with pytest.raises(GaudiPatchError) as caught:
        few.rollback()
    named = sorted(map(str, edited), key=caught.value.message.index)
    assert caught.value.file == named[0]


@pytest.mark.parametrize("content", [*(letter * 10000 for letter in (b"v", b"w", b"x", b"y", b"z")), b"", None])
def test_a_lost_undo_file_needs_a_human(content: bytes | None, few: Tiny) -> None:
    """case_72: the bytes to put back are held against their hash; nothing else is put in their place."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    undo = few.home / journal.UNDO
    undo.unlink()
    if content is not None:
        undo.write_bytes(content)
    engine = (few.site / "lmcache/engine.py").read_bytes()
    for _ in range(2):
        with pytest.raises(GaudiPatchError, match="has lost the bytes") as caught:
            few.rollback()
        assert (caught.value.exit, caught.value.code) == (Exit.HUMAN, "journal-damaged")
    assert (few.site / "lmcache/engine.py").read_bytes() == engine
    if content:
        garbage = [path for path in few.site.rglob("*") if path.is_file() and set(path.read_bytes()) == set(content)]
        assert garbage == [undo]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be understood"),
        (b"[]", "cannot be understood"),
        (b'{"schema_version": 1}', "cannot be understood"),
        (b'{"schema_version": 2}', "newer gaudi-patch"),
        (b'{"schema_version": 1, "verb": "x", "phase": "y", "entries": [1], "created": [], "removed": []}', "cannot"),
    ],
)
def test_a_damaged_journal_needs_a_human(content: bytes, words: str, few: Tiny) -> None:
    """case_71: never guessed at."""
    few.home.mkdir()
    (few.home / journal.FILE).write_bytes(content)
    before = tree(few.site, times=True)
    for verb in (few.check, few.apply, few.rollback):
        with pytest.raises(GaudiPatchError, match=words) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.HUMAN, "journal-damaged")
    assert tree(few.site, times=True) == before


def test_a_disk_that_gives_back_other_bytes_is_no_success(few: Tiny) -> None:
    """case_5: success is what the disk gives back, and nothing else."""
    before = tree(few.site)
    engine = few.site / "lmcache/engine.py"

    class Liar(Disk):
        lies = False

        def step(self, name: str, path: Path) -> None:
            if name == "fsync-dir" and path == engine.parent:
                self.lies = True

        def read(self, path: Path) -> Image | None:
            image = super().read(path)
            if self.lies and path == engine and image is not None:
                self.lies = False
                return image._replace(data=image.data[:-1])
            return image

    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Liar())
    assert (caught.value.exit, caught.value.code, caught.value.file) == (
        Exit.ENVIRONMENT,
        "verify-failed",
        str(engine),
    )
    assert tree(few.site) == before


def test_litter_that_cannot_be_cleared_is_a_warning_and_goes_with_the_next_run(few: Tiny) -> None:
    recorder = Recorder()
    few.apply(recorder)
    after = tree(few.site)
    few.rollback()
    clearing = recorder.calls.index(("unlink", few.home / journal.UNDO))
    result = few.apply(FailAt(clearing, 5))
    assert result.exit is Exit.OK
    assert [text for text in result.warnings if str(few.home) in text]
    assert few.home.is_dir()
    assert few.check().exit is Exit.OK
    assert few.apply().exit is Exit.OK
    assert set(tree(few.site)) == set(after)


def test_a_recovery_is_told_of(few: Tiny) -> None:
    """case_1: what the next run did about the killed one is said, with the number of files put back."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    document = json.loads((few.home / journal.FILE).read_bytes())
    (said,) = [text for text in few.rollback().warnings if "interrupted apply" in text]
    assert f"({len(document['entries'])} files put back)" in said
    assert not [text for text in few.rollback().warnings if "interrupted" in text]


def test_a_journal_of_a_mounted_image_is_recovered_elsewhere(few: Tiny, tmp_path: Path) -> None:
    """case_22: paths in the journal are relative, as an image may be mounted at another place the next time."""
    before = tree(few.site)
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    few.site.rename(tmp_path / "elsewhere")
    moved = few.at(tmp_path / "elsewhere")
    assert moved.rollback().exit is Exit.OK
    assert tree(moved.site) == before


def killed_before(few: Tiny, name: str, path: Path) -> None:
    """`apply` killed before a step."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    assert in_child(lambda: few.apply(KillAt(recorder.calls.index((name, path))))) == KILLED


def test_only_what_was_replaced_is_put_back(few: Tiny) -> None:
    """case_1: the number that is told is that of the files on the wrong side."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    replaced = [path for name, path in recorder.calls if name == "replace" and path.name != journal.FILE]
    killed_before(few, "replace", replaced[1])
    assert any("(1 file put back)" in text for text in few.rollback().warnings)


def test_a_mode_changed_after_a_kill_is_put_back_too(few: Tiny) -> None:
    """case_2: of a file that was to be deleted, and was not yet."""
    before = tree(few.site)
    killed_before(few, "unlink", few.site / "lmcache/old.py")
    (few.site / "lmcache/old.py").chmod(0o600)
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_nobody_else_may_read_the_journal(few: Tiny) -> None:
    """It holds the bytes of files that may be private."""
    killed_before(few, "unlink", few.home / journal.FILE)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in few.home.iterdir()}
    assert modes == {journal.FILE: 0o600, journal.UNDO: 0o600}


def test_an_undo_leaves_the_bytecode_of_other_modules(few: Tiny) -> None:
    """tool.sh is a target, tool.py is none."""
    cached = few.site / "lmcache/__pycache__/tool.cpython-399.pyc"
    cached.write_bytes(b"cached")
    before = tree(few.site)
    killed_before(few, "unlink", few.home / journal.FILE)
    few.rollback()
    assert tree(few.site) == before


def test_bytecode_that_python_wrote_again_is_not_held_against_us(few: Tiny) -> None:
    """case_46: between the replacement and the look at it; only the old bytecode must not be there."""
    pyc = next((few.site / "lmcache/__pycache__").glob("engine.*.pyc"))
    old = pyc.read_bytes()
    look = Hook("read", at(pyc), lambda: pyc.write_bytes(b"newer"))
    assert few.apply(look).exit is Exit.OK
    assert pyc.read_bytes() == b"newer"
    few.rollback()
    assert pyc.read_bytes() == old
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Hook("read", at(pyc), lambda: pyc.write_bytes(old)))
    assert (caught.value.code, caught.value.file) == ("verify-failed", str(pyc))
    assert few.check().exit is Exit.PENDING


# What is kept of a file


def test_created_files_and_folders_take_no_umask(tmp_path: Path) -> None:
    """case_9: the patch's modes, whatever the umask; a modified file keeps its own."""
    target = tiny.make(tmp_path)
    (target.site / "lmcache/engine.py").chmod(0o640)
    old = os.umask(0o077)
    try:
        target.apply()
    finally:
        os.umask(old)

    def mode(path: str) -> int:
        return stat.S_IMODE((target.site / path).stat().st_mode)

    assert mode("lmcache/engine.py") == 0o640
    assert mode("lmcache/gaudi") == 0o755
    assert mode("lmcache/gaudi/kernels.py") == 0o644
    assert mode("lmcache/tool.sh") == 0o755
    assert mode(f"{target.dist_info.name}/RECORD") == 0o644
    assert mode(f"{target.dist_info.name}/gaudi-patch/state.json") == 0o644


def test_a_set_gid_folder_hands_its_bit_down(tmp_path: Path) -> None:
    """case_9"""
    target = tiny.make(tmp_path)
    (target.site / "lmcache").chmod(0o2775)
    target.apply()
    assert (target.site / "lmcache/gaudi").stat().st_mode & stat.S_ISGID


@root_only
def test_owner_and_group_are_kept_and_created_files_belong_to_the_packages_owner(tmp_path: Path) -> None:
    """case_8: root applies to a user's environment."""
    target = tiny.make(tmp_path)
    for path in [target.site, *target.site.rglob("*")]:
        os.lchown(path, 1234, 2345)
    odd = target.site / "lmcache/engine.py"
    os.chown(odd, 1000, 1001)
    before = {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")}
    target.apply()
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")}
    assert owners[odd] == (1000, 1001)
    assert {owner for path, owner in owners.items() if path != odd} == {(1234, 2345)}
    target.rollback()
    assert {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")} == before


def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    """case_8: SELinux labels are extended attributes; seen here with a user's own."""
    target = tiny.make(tmp_path)
    engine = target.site / "lmcache/engine.py"
    try:
        os.setxattr(engine, "user.label", b"gaudi")
    except OSError as error:
        pytest.skip(f"this file system keeps no extended attributes: {error}")
    target.apply()
    assert os.getxattr(engine, "user.label") == b"gaudi"
    with pytest.raises(GaudiPatchError):
        target.rollback(Hook("fsync-dir", at(engine.parent), _raise(OSError(5, "I/O"))))
    assert os.getxattr(engine, "user.label") == b"gaudi"
    target.rollback()
    assert os.getxattr(engine, "user.label") == b"gaudi"


def test_hardlinked_files_are_replaced_and_never_written_through(tmp_path: Path) -> None:
    """case_13: uv and conda hardlink installed files to their caches."""
    target = tiny.make(tmp_path)
    cache = tmp_path / "cache"
    for path in target.site.rglob("*"):
        if path.is_file():
            link = cache / path.relative_to(target.site)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
    before = tree(cache, times=True)
    inodes = {path: path.stat().st_ino for path in cache.rglob("*")}
    target.apply()
    assert (target.site / "lmcache/engine.py").stat().st_nlink == 1
    target.rollback()
    assert tree(cache, times=True) == before
    assert {path: path.stat().st_ino for path in cache.rglob("*")} == inodes
    backups = [path for path in target.site.rglob("*") if path.is_file() and "backup" in path.parts]
    assert not backups


def test_mtimes_of_restored_files_are_those_before(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    for number, path in enumerate(sorted(target.site.rglob("*.py"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    before = {path: path.stat().st_mtime_ns for path in target.site.rglob("*") if path.is_file()}
    target.apply()
    target.rollback()
    assert {path: path.stat().st_mtime_ns for path in target.site.rglob("*") if path.is_file()} == before


# Another user


def _as_nobody(work: Callable[[], None]) -> Callable[[], None]:
    def inner() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        work()

    return inner


@root_only
@pytest.mark.parametrize("owned", [[], ["lmcache/engine.py"]])
def test_a_user_without_rights_changes_nothing(owned: list[str], tmp_path: Path) -> None:
    """case_7: a package of root's; a file that the user owns in root's folder is not written in place either."""
    target = _open_for_nobody(tiny.make(tmp_path), tmp_path)
    for name in owned:
        os.chown(target.site / name, 65534, 65534)
    before = tree(target.site, times=True)

    def work() -> None:
        for dry_run in (False, True):
            with pytest.raises(GaudiPatchError) as caught:
                target.apply(dry_run=dry_run)
            error = caught.value
            assert (error.exit, error.code) == (Exit.ENVIRONMENT, "eacces")
            assert "65534" in error.hint
            assert str(target.site) in error.file
        assert target.check().exit is Exit.PENDING

    assert in_child(_as_nobody(work)) == 0
    assert tree(target.site, times=True) == before


@root_only
def test_a_user_patches_and_rolls_back_his_own_package(tmp_path: Path) -> None:
    """case_7: without root; a file of somebody else in his folder becomes his, as he cannot give files away."""
    target = _open_for_nobody(tiny.make(tmp_path), tmp_path)
    for path in [target.site, *target.site.rglob("*")]:
        os.lchown(path, 65534, 65534)
    os.chown(target.site / "lmcache/engine.py", 0, 0)
    before = tree(target.site)

    def work() -> None:
        assert target.apply().exit is Exit.OK
        assert target.check().exit is Exit.OK
        assert target.rollback().exit is Exit.OK
        assert tree(target.site) == before

    assert in_child(_as_nobody(work)) == 0
    assert tree(target.site) == before


def _open_for_nobody(target: Tiny, tmp_path: Path) -> Tiny:
    """Make the way to the target passable (pytest's own folders are 0700), and have everything imported."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    target.apply(dry_run=True)  # imports what it needs, which nobody may not read here
    return target


# The transaction by itself


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "info").mkdir()
    yield tmp_path
    assert sorted(path.name for path in (tmp_path / "info").iterdir()) == []


def carry_out(place: Path, changes: list[Change], disk: Disk | None = None, **more: Any) -> list[str]:
    return transaction.run(place / "info" / "journal", place, "test", changes, disk or Disk(), **more)


def test_nothing_to_change_is_a_transaction_too(place: Path) -> None:
    assert carry_out(place, []) == []


def test_undo_keeps_bytecode_that_was_there_without_its_source(place: Path) -> None:
    """An orphaned .pyc of a module that the series creates is what it was after an undo."""
    orphan = place / "__pycache__" / "new.cpython-311.pyc"
    orphan.parent.mkdir()
    orphan.write_bytes(b"orphan")
    changes = [
        Change(place / "new.py", None, Image(b"x = 1\n")),
        Change(orphan, Image(b"orphan", stat.S_IMODE(orphan.stat().st_mode)), None, volatile=True),
        Change(place / "zz.txt", None, Image(b"")),
    ]
    fail = Hook("fsync-dir", at(place), _raise(OSError(5, "I/O")))
    with contextlib.suppress(OSError):
        carry_out(place, changes, fail)
    assert orphan.read_bytes() == b"orphan"
    assert not (place / "new.py").exists()


def test_undo_removes_what_python_cached_of_a_created_module(place: Path) -> None:
    """case_61: an empty folder with a __pycache__ would stay importable as a namespace package."""
    module = place / "pkg" / "new.py"

    def python_runs() -> None:
        (module.parent / "__pycache__").mkdir()
        (module.parent / "__pycache__" / "new.cpython-399.pyc").write_bytes(b"theirs")
        raise OSError(5, "I/O")

    with pytest.raises(OSError, match="I/O"):
        carry_out(place, [Change(module, None, Image(b"x = 1\n"))], Hook("fsync-dir", at(module.parent), python_runs))
    assert not module.parent.exists()


def test_a_file_that_appears_where_one_is_to_be_created_is_kept(place: Path) -> None:
    """case_37"""
    target = place / "new.py"
    with pytest.raises(GaudiPatchError, match="changed by somebody else"):
        carry_out(
            place, [Change(target, None, Image(b"ours"))], Hook("read", at(target), lambda: _replace(target, b"theirs"))
        )
    assert target.read_bytes() == b"theirs"


def test_folders_that_are_not_empty_stay(place: Path) -> None:
    (place / "full").mkdir()
    (place / "full" / "mine").write_bytes(b"")
    (place / "empty" / "deep").mkdir(parents=True)
    carry_out(place, [], remove_directories=[place / "full", place / "empty", place / "empty" / "deep", place / "no"])
    assert (place / "full" / "mine").exists()
    assert not (place / "empty").exists()


def test_the_times_of_touched_folders_are_set_when_asked_for(place: Path) -> None:
    """case_66"""
    changes = [Change(place / "made" / "x", None, Image(b"x", mtime_ns=10**18))]
    assert carry_out(place, changes, folder_time_ns=10**18) == []
    for path in (place, place / "made", place / "info", place / "made" / "x"):
        assert path.stat().st_mtime_ns == 10**18, path


def test_a_time_that_cannot_be_set_is_a_warning(place: Path) -> None:
    fail = Hook("utime", lambda _: True, _raise(OSError(1, "no", str(place))))
    (said,) = carry_out(place, [Change(place / "x", None, Image(b"x"))], fail, folder_time_ns=10**18)
    assert str(place) in said
