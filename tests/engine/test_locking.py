"""The lock of an installation: leaves no file, names its holder, and reports a file system without locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaudi_patch.engine import journal
from gaudi_patch.engine.locking import UNSUPPORTED, directory_lock, no_writer
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.cli import gaudi_patch
from tests.support.faults import KILLED, KillAt, in_child
from tests.support.tiny import Tiny, tree


def refusal(path: Path, timeout: float = 0.0) -> GaudiPatchError:
    """Return the error raised when ``path`` cannot be locked."""
    with pytest.raises(GaudiPatchError) as caught, directory_lock(path, timeout):
        pass
    assert caught.value.exit is Exit.ENVIRONMENT
    assert caught.value.file == str(path)
    return caught.value


def refuse(path: Path, timeout: float = 0.0) -> str:
    """Return the code of the error raised when ``path`` cannot be locked."""
    return refusal(path, timeout).code


def test_one_holds_it_and_the_other_waits_and_then_gives_up(tmp_path: Path) -> None:
    """case_64: exit 4 for the loser; the directory is unchanged."""
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


@pytest.fixture(params=sorted(UNSUPPORTED))
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Simulate a file system without flock, with each possible error; return the system's words."""

    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    return os.strerror(request.param)


def test_a_file_system_that_cannot_lock_is_said_to_be_so(no_flock: str, tmp_path: Path) -> None:
    """case_65: no substitute that could lock for ever or not at all; the error explains --no-lock."""
    error = refusal(tmp_path)
    assert (error.code, error.exit) == ("cannot-lock", Exit.ENVIRONMENT)
    assert no_flock in error.message
    assert "--no-lock" in error.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_a_lock_a_run_goes_on_and_says_so(tmp_path: Path) -> None:
    """case_65: --no-lock."""
    with directory_lock(tmp_path, None) as warnings:
        (said,) = warnings
        assert "--no-lock" in said
        assert str(tmp_path) in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_flock_nobody_is_taken_for_a_writer(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)


def test_no_lock_is_offered_by_both_commands_that_write(tmp_path: Path) -> None:
    """Nor does it take a lock: another holder does not matter."""
    few = scenarios.few(tmp_path)
    before = tree(few.site)
    for verb, more in (("apply", ["--no-smoke"]), ("rollback", [])):
        target = ["--path", few.site, "--manifest", few.manifest.directory, *more]
        with held_by(["sleep", "60"], few.dist_info):
            assert gaudi_patch(verb, *target, "--lock-timeout", "0").code == 4
            done = gaudi_patch(verb, *target, "--no-lock")
        assert done.code == 0, done.err
        assert "no lock was taken" in done.err
    assert tree(few.site) == before


@contextlib.contextmanager
def held_by(command: list[str], directory: Path, uid: int | None = None) -> Iterator[int]:
    """Let a process other than gaudi-patch hold the lock; yield its pid."""
    ready, told = os.pipe()
    script = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "os.set_inheritable(fd, True)\n"
        "os.write(int(sys.argv[2]), b'x')\n"
        "os.execvp(sys.argv[3], sys.argv[3:])\n"
    )
    arguments = [sys.executable, "-c", script, str(directory), str(told), *command]
    process = subprocess.Popen(arguments, pass_fds=[told], user=uid, cwd="/")
    try:
        os.close(told)
        assert os.read(ready, 1) == b"x"
        deadline = time.monotonic() + 10
        while command[0].encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0]:
            assert time.monotonic() < deadline
        yield process.pid
    finally:
        os.close(ready)
        process.kill()
        process.wait()


def test_the_holder_is_named_whoever_it_is(tmp_path: Path) -> None:
    """Any local user can lock a directory that he can read."""
    with held_by(["sleep", "60"], tmp_path) as pid:
        assert f"process {pid} (sleep 60)" in refusal(tmp_path).message
        with no_writer(tmp_path) as writer:
            assert writer is not None
            assert (writer.pid, writer.command) == (pid, "sleep 60")
    with no_writer(tmp_path) as writer:
        assert writer is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_another_users_process_is_named_with_the_user(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # up to /tmp itself
        folder.chmod(0o755)
    python = shutil.which("python3", path="/usr/bin") or ""
    if not python:
        pytest.skip("no interpreter that another user can run")
    script = (
        "import fcntl, os, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [python, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, user=54321, cwd="/") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert f"process {process.pid} of uid 54321" in refusal(tmp_path).message
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_a_holder_that_cannot_be_seen_is_not_taken_for_dead(tmp_path: Path) -> None:
    """case_65: the old lock file mistook a holder in another PID namespace for a dead process."""
    program = (
        "import sys; from pathlib import Path; from gaudi_patch.engine.locking import directory_lock\n"
        "with directory_lock(Path(sys.argv[1]), 0): pass"
    )
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no PID namespace can be made here")
    command = [*unshare, sys.executable, "-c", program, str(tmp_path)]
    with directory_lock(tmp_path, 0):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "is not visible from here" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_whether_it_is_held_is_seen_without_a_trace(tmp_path: Path) -> None:
    before = tree(tmp_path, times=True)
    assert not is_locked(tmp_path)
    with directory_lock(tmp_path, 0):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert tree(tmp_path, times=True) == before


def test_two_that_only_look_do_not_hinder_each_other(tmp_path: Path) -> None:
    with no_writer(tmp_path) as first, no_writer(tmp_path) as second:
        assert (first, second) == (None, None)
        assert refuse(tmp_path) == "locked"


def test_whether_it_is_held_may_be_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="no"):
        is_locked(tmp_path)


def is_locked(path: Path) -> bool:
    with no_writer(path) as holder:
        return holder is not None


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)


def test_a_journal_that_is_gone_on_second_sight_was_of_a_run_at_work(
    few: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """check once reported "interrupted" for a run that was still at work, and ended between two looks."""
    from gaudi_patch.engine import verdicts

    few.apply()
    real = verdicts.look
    looks = []

    def look(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        looks.append(found)
        if len(looks) == 1:  # as if its journal still existed
            return found._replace(interrupted=JOURNAL)
        return found

    monkeypatch.setattr(verdicts, "look", look)
    assert few.check().exit is Exit.OK
    assert len(looks) == 2


JOURNAL = journal.Journal("apply", "replacing", (), (), ())


def test_a_journal_beside_a_writer_is_a_run_at_work_and_without_one_a_killed_run(few: Tiny) -> None:
    assert in_child(lambda: few.apply(KillAt(12))) == KILLED
    with held_by(["sleep", "60"], few.dist_info) as pid:
        result = few.check()
        assert (result.exit, [error.code for error in result.errors]) == (Exit.ENVIRONMENT, ["locked"])
        assert f"process {pid}" in result.errors[0].message
    result = few.check()
    assert (result.exit, [error.code for error in result.errors]) == (Exit.REFUSED, ["interrupted"])
    assert few.apply().exit is Exit.OK
