"""`rollback --force` saves a user's edits whole and durably, however often it is interrupted."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.engine.saved_copies import save
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.faults import KILLED, FailAt, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree

MINE = b"def device():\n    return 'mine'\n" + b"# a long line of my own\n" * 500
IMAGE = FileImage(MINE, 0o640, 10**18)
NAME = f"engine.py.gaudi-patch-saved-{IMAGE.sha256[:12]}"


def edited(folder: Path) -> Tiny:
    """Return a patched LMCache with one file edited afterwards."""
    target = scenarios.patched(folder)
    (target.site / "lmcache/engine.py").write_bytes(MINE)
    return target


def whole(directory: Path) -> bool:
    """Return whether the copy exists; assert that no incomplete file has its name."""
    copies = [path for path in directory.iterdir() if not path.name.startswith(".")]
    assert [path.name for path in copies] in ([], [NAME])
    assert all(path.read_bytes() == MINE for path in copies)
    return bool(copies)


def steps(folder: Path) -> list[tuple[str, Path]]:
    recorder = Recorder()
    target = edited(folder)
    (folder / "saved").mkdir()
    assert target.rollback(recorder, force=True, save_to=folder / "saved").exit is Exit.OK
    return recorder.calls


def test_killed_anywhere_no_part_of_a_copy_has_its_name_and_a_retry_ends_it(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Once the copy was written under its final name, and each retry then failed with "File exists"."""
    folder = tmp_path / "here"
    calls = steps(folder)
    last = max(number for number, (_, path) in enumerate(calls) if (folder / "saved") in (path, path.parent))
    pristine = tree(folder / "site")
    for at in range(last + 3):
        shutil.rmtree(folder)
        target, saved = edited(folder), folder / "saved"
        saved.mkdir()
        assert in_child(lambda: target.rollback(KillAt(at), force=True, save_to=saved)) == KILLED  # noqa: B023
        if not whole(saved):
            assert (target.site / "lmcache/engine.py").read_bytes() == MINE
        assert target.rollback(force=True, save_to=saved).data["saved"] == [str(saved / NAME)]
        assert sorted(path.name for path in saved.iterdir()) == [NAME]
        assert whole(saved)
        assert tree(target.site) == pristine
    record_property("kills while saving a copy", last + 3)


def test_killed_while_writing_the_part_is_replaced(tmp_path: Path) -> None:
    """Killed during the write itself, which has no step of gaudi-patch."""

    class Partial(Disk):
        def write_new(self, path: Path, image: FileImage, like: Path | None = None) -> None:
            if "saved" in path.name:
                path.write_bytes(image.data[:100])
                os._exit(KILLED)
            super().write_new(path, image, like)

    target, saved = edited(tmp_path), tmp_path / "saved"
    saved.mkdir()
    assert in_child(lambda: target.rollback(Partial(), force=True, save_to=saved)) == KILLED
    assert not whole(saved)
    assert target.rollback(force=True, save_to=saved).exit is Exit.OK
    assert sorted(path.name for path in saved.iterdir()) == [NAME]
    assert whole(saved)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_while_saving_changes_nothing_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    calls = steps(tmp_path / "all")
    places = [at for at, (_, path) in enumerate(calls) if (tmp_path / "all/saved") in (path, path.parent)]
    assert len(places) >= 4
    for at in places:
        folder = tmp_path / str(at)
        target, saved = edited(folder), folder / "saved"
        saved.mkdir()
        before = tree(target.site)
        disk = FailAt(at, number)
        if calls[at][0] == "unlink":  # removes what an earlier run may have left
            assert target.rollback(disk, force=True, save_to=saved).exit is Exit.OK
        else:
            with pytest.raises(GaudiPatchError) as caught:
                target.rollback(disk, force=True, save_to=saved)
            assert caught.value.exit is Exit.ENVIRONMENT
            assert tree(target.site) == before
        assert disk.failed
        whole(saved)
        assert [path.name for path in saved.iterdir() if path.name.endswith(".tmp")] == [], calls[at]


def test_the_copy_is_durable_before_the_original_goes(tmp_path: Path) -> None:
    """Flushed, renamed, and its directory flushed, in that order, before the first file is replaced."""
    calls = steps(tmp_path)
    names = [(name, path.name) for name, path in calls]
    copied = [name for name, path in names if "saved" in path]
    assert copied == ["unlink", "write", "fsync", "replace", "fsync-dir"]
    assert names.index(("fsync-dir", "saved")) < names.index(("replace", "journal.json"))


@pytest.mark.parametrize("length", [0, 1, 100, len(MINE) - 1])
def test_the_part_that_an_earlier_version_left_is_replaced(length: int, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(MINE[:length])
    assert save("engine.py", IMAGE, tmp_path, Disk(), tmp_path) == tmp_path / NAME
    assert whole(tmp_path)


@pytest.mark.parametrize("kind", ["file", "longer", "directory", "link", "dangling", "fifo"])
@pytest.mark.parametrize("image", [IMAGE, FileImage(b"", 0o644)])
def test_what_is_not_ours_is_left_alone(kind: str, image: FileImage, tmp_path: Path) -> None:
    path = tmp_path / f"engine.py.gaudi-patch-saved-{image.sha256[:12]}"
    other = tmp_path / "other"
    other.write_bytes(image.data)
    {
        "file": lambda: path.write_bytes(b"another"),
        "longer": lambda: path.write_bytes(image.data + b"more"),
        "directory": path.mkdir,
        "link": lambda: path.symlink_to(other),
        "dangling": lambda: path.symlink_to("nowhere"),
        "fifo": lambda: os.mkfifo(path),
    }[kind]()
    before = path.lstat()
    saved = save("engine.py", image, tmp_path, Disk(), tmp_path)
    assert saved == path.with_name(f"{path.name}-2")
    assert saved.read_bytes() == image.data
    assert path.lstat() == before
    assert save("engine.py", image, tmp_path, Disk(), tmp_path) == saved


def test_a_temporary_name_that_is_taken_is_no_dead_end(tmp_path: Path) -> None:
    class Taken(Disk):
        def unlink(self, path: Path) -> None:
            raise PermissionError(errno.EPERM, "no", str(path))

    recorder = Recorder()
    save("engine.py", IMAGE, tmp_path / "..", recorder, tmp_path)
    (temp,) = [path.name for name, path in recorder.calls if name == "write"]
    (tmp_path / temp).mkdir()
    assert save("engine.py", IMAGE, tmp_path, Taken(), tmp_path).read_bytes() == MINE


def test_an_edit_that_comes_after_the_copy_is_not_lost(tmp_path: Path) -> None:
    class Late(Disk):
        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            if "saved" in target.name:
                (made.site / "lmcache/engine.py").write_bytes(b"later\n")

    made = edited(tmp_path / "made")
    (tmp_path / "saved").mkdir()
    with pytest.raises(GaudiPatchError) as caught:
        made.rollback(Late(), force=True, save_to=tmp_path / "saved")
    assert caught.value.code == "changed-meanwhile"
    assert (made.site / "lmcache/engine.py").read_bytes() == b"later\n"


def test_a_copy_has_no_more_rights_than_a_file(tmp_path: Path) -> None:
    path = save("tool.sh", FileImage(b"#!/bin/sh\n", 0o6755), tmp_path, Disk(), tmp_path)
    assert path.stat().st_mode & 0o7777 == 0o755
