"""How the next run recovers from a killed one."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.engine import journal
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.transactions import Hook, at
from tests.support import scenarios
from tests.support.faults import KILLED, FailAt, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree


def test_a_target_edited_after_a_kill_needs_a_human(few: Tiny) -> None:
    """case_2: bytes of neither side: exit 6, the file named, its edit kept, the others restored, the journal kept."""
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
    """case_72: the bytes to restore must match their hash; nothing else is written."""
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
        with pytest.raises(GaudiPatchError, match="no longer has the bytes") as caught:
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
    """case_5: only what is read back from the disk counts as success."""
    before = tree(few.site)
    engine = few.site / "lmcache/engine.py"

    class Liar(Disk):
        lies = False

        def step(self, name: str, path: Path) -> None:
            if name == "fsync-dir" and path == engine.parent:
                self.lies = True

        def read(self, path: Path) -> FileImage | None:
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
    """case_1: the run reports how it recovered, with the number of restored files."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED
    document = json.loads((few.home / journal.FILE).read_bytes())
    (said,) = [text for text in few.rollback().warnings if "interrupted apply" in text]
    assert f"({len(document['entries'])} files restored)" in said
    assert not [text for text in few.rollback().warnings if "interrupted" in text]


def test_a_journal_of_a_mounted_image_is_recovered_elsewhere(few: Tiny, tmp_path: Path) -> None:
    """case_22: paths in the journal are relative, since an image may be mounted elsewhere next time."""
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
    """Kill `apply` before a step."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    assert in_child(lambda: few.apply(KillAt(recorder.calls.index((name, path))))) == KILLED


def test_only_what_was_replaced_is_put_back(few: Tiny) -> None:
    """case_1: the reported number counts the files on the wrong side."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    replaced = [path for name, path in recorder.calls if name == "replace" and path.name != journal.FILE]
    killed_before(few, "replace", replaced[1])
    assert any("(1 file restored)" in text for text in few.rollback().warnings)


def test_a_mode_changed_after_a_kill_is_put_back_too(few: Tiny) -> None:
    """case_2: of a file that was about to be deleted."""
    before = tree(few.site)
    killed_before(few, "unlink", few.site / "lmcache/old.py")
    (few.site / "lmcache/old.py").chmod(0o600)
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_nobody_else_may_read_the_journal(few: Tiny) -> None:
    """It contains the bytes of files that may be private."""
    killed_before(few, "unlink", few.home / journal.FILE)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in few.home.iterdir()}
    assert modes == {journal.FILE: 0o600, journal.UNDO: 0o600}


def test_an_undo_leaves_the_bytecode_of_other_modules(few: Tiny) -> None:
    """tool.sh is a target, tool.py is not."""
    cached = few.site / "lmcache/__pycache__/tool.cpython-399.pyc"
    cached.write_bytes(b"cached")
    before = tree(few.site)
    killed_before(few, "unlink", few.home / journal.FILE)
    few.rollback()
    assert tree(few.site) == before


def test_bytecode_that_python_wrote_again_is_not_held_against_us(few: Tiny) -> None:
    """case_46: between the replacement and the check of it; only the old bytecode must be gone."""
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
