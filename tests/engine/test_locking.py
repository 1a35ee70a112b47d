"""The lock of an installation: no file of it is left, and a file system without flock has one too."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.engine.locking import LOCK_FILE, UNSUPPORTED, directory_lock, is_locked
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support.faults import in_child
from tests.support.tiny import tree


def refuse(path: Path, timeout: float = 0.0) -> str:
    """The code of the refusal to lock ``path``."""
    with pytest.raises(GaudiPatchError) as caught, directory_lock(path, timeout):
        pass
    assert caught.value.exit is Exit.ENVIRONMENT
    assert caught.value.file == str(path)
    return caught.value.code


def test_one_holds_it_and_the_other_waits_and_then_gives_up(tmp_path: Path) -> None:
    """case_64: exit 4 for the loser; the folder is as it was."""
    with directory_lock(tmp_path, 0) as warnings:
        assert warnings == []
        assert in_child(lambda: refuse(tmp_path)) == 0
        assert in_child(lambda: refuse(tmp_path, 0.2)) == 0
    with directory_lock(tmp_path, 0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    """case_64: a killed run leaves no lock."""

    def killed() -> None:
        lock = directory_lock(tmp_path, 0)
        lock.__enter__()
        os._exit(137)

    assert in_child(killed) == 137
    with directory_lock(tmp_path, 0):
        pass


def test_a_folder_that_was_replaced_while_waiting_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """case_64: pip upgraded the package in the meantime."""
    folder = tmp_path / "info"

    for again in (False, True):
        folder.mkdir()

        def replaced(descriptor: int, how: int, again: bool = again) -> None:
            folder.rename(tmp_path / f"old{again}")
            if again:
                folder.mkdir()

        monkeypatch.setattr(fcntl, "flock", replaced)
        assert refuse(folder) == "vanished"
    shutil.rmtree(folder)


def test_another_error_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="no"), directory_lock(tmp_path, 0):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_file_is_the_lock_and_a_warning_is_given(tmp_path: Path) -> None:
    """case_65: it names host and process, and goes in the end."""
    with directory_lock(tmp_path, 0) as warnings:
        (said,) = warnings
        assert str(tmp_path) in said
        holder = json.loads((tmp_path / LOCK_FILE).read_bytes())
        assert holder == {"host": socket.gethostname(), "pid": os.getpid()}
        assert in_child(lambda: refuse(tmp_path)) == 0
        assert refuse(tmp_path, 0.1) == "locked"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_file_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    """case_65: of a process of this host that is no more; of another host only a human can know."""
    process = subprocess.Popen(["true"])
    process.wait()
    dead = process.pid
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": socket.gethostname(), "pid": dead}))
    with directory_lock(tmp_path, 1):
        assert json.loads((tmp_path / LOCK_FILE).read_bytes())["pid"] == os.getpid()
    for content in (
        json.dumps({"host": "another", "pid": dead}),
        json.dumps({"host": socket.gethostname(), "pid": 1}),
        "",
        "[]",
        '{"host": 1}',
    ):
        (tmp_path / LOCK_FILE).write_text(content)
        assert refuse(tmp_path) == "locked"
        assert (tmp_path / LOCK_FILE).read_text() == content


@pytest.mark.usefixtures("no_flock")
def test_without_flock_another_users_process_counts_as_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": socket.gethostname(), "pid": 5}))
    assert refuse(tmp_path) == "locked"


def test_whether_it_is_held_is_seen_without_a_trace(tmp_path: Path) -> None:
    before = tree(tmp_path, times=True)
    assert not is_locked(tmp_path)
    with directory_lock(tmp_path, 0):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert tree(tmp_path, times=True) == before


@pytest.mark.usefixtures("no_flock")
def test_whether_it_is_held_is_seen_without_flock_too(tmp_path: Path) -> None:
    """case_65"""
    assert not is_locked(tmp_path)
    with directory_lock(tmp_path, 0):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whether_it_is_held_may_be_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="no"):
        is_locked(tmp_path)


@pytest.mark.parametrize("number", sorted(UNSUPPORTED))
def test_every_way_to_say_unsupported_is_known(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with directory_lock(tmp_path, 0) as warnings:
        assert warnings
