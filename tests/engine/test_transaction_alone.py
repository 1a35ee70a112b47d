"""The transaction alone, without a series."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.confined import Area, Bounds
from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.engine import transaction
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.transaction import Change
from gaudi_patch.errors import GaudiPatchError
from tests.engine.transactions import Hook, _raise, _replace, at


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "info").mkdir()
    (tmp_path / "package").mkdir()
    yield tmp_path
    assert sorted(path.name for path in (tmp_path / "info").iterdir()) == []


def carry_out(place: Path, changes: list[Change], disk: Disk | None = None, **more: Any) -> list[str]:
    info = place / "info"
    ground = Ground(place, "package", info / "state", info / "journal", Bounds([Area(place, links=True)]))
    return transaction.run(ground, "test", changes, disk or Disk(), **more)


def test_nothing_to_change_is_a_transaction_too(place: Path) -> None:
    assert carry_out(place, []) == []


def test_undo_keeps_bytecode_that_was_there_without_its_source(place: Path) -> None:
    """An undo restores an orphaned .pyc of a module that the series creates."""
    orphan = place / "__pycache__" / "new.cpython-311.pyc"
    orphan.parent.mkdir()
    orphan.write_bytes(b"orphan")
    changes = [
        Change(place / "new.py", None, FileImage(b"x = 1\n")),
        Change(orphan, FileImage(b"orphan", stat.S_IMODE(orphan.stat().st_mode)), None, volatile=True),
        Change(place / "zz.txt", None, FileImage(b"")),
    ]
    fail = Hook("fsync-dir", at(place), _raise(OSError(5, "I/O")))
    with contextlib.suppress(OSError):
        carry_out(place, changes, fail)
    assert orphan.read_bytes() == b"orphan"
    assert not (place / "new.py").exists()


def test_undo_removes_what_python_cached_of_a_created_module(place: Path) -> None:
    """case_61: an empty directory with a __pycache__ would stay importable as a namespace package."""
    module = place / "pkg" / "new.py"

    def python_runs() -> None:
        (module.parent / "__pycache__").mkdir()
        (module.parent / "__pycache__" / "new.cpython-399.pyc").write_bytes(b"theirs")
        raise OSError(5, "I/O")

    with pytest.raises(OSError, match="I/O"):
        carry_out(
            place, [Change(module, None, FileImage(b"x = 1\n"))], Hook("fsync-dir", at(module.parent), python_runs)
        )
    assert not module.parent.exists()


def test_a_file_that_appears_where_one_is_to_be_created_is_kept(place: Path) -> None:
    """case_37"""
    target = place / "new.py"
    with pytest.raises(GaudiPatchError, match="changed by another program"):
        carry_out(
            place,
            [Change(target, None, FileImage(b"ours"))],
            Hook("read", at(target), lambda: _replace(target, b"theirs")),
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
    changes = [Change(place / "made" / "x", None, FileImage(b"x", mtime_ns=10**18))]
    assert carry_out(place, changes, folder_time_ns=10**18) == []
    for path in (place, place / "made", place / "info", place / "made" / "x"):
        assert path.stat().st_mtime_ns == 10**18, path


def test_a_time_that_cannot_be_set_is_a_warning(place: Path) -> None:
    fail = Hook("utime", lambda _: True, _raise(OSError(1, "no", str(place))))
    (said,) = carry_out(place, [Change(place / "x", None, FileImage(b"x"))], fail, folder_time_ns=10**18)
    assert str(place) in said
