"""The seam to the file system, and the reports of its errors."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk, FileImage, environment_error, read_image, sha256
from gaudi_patch.errors import Exit, GaudiPatchError


def test_permission_denied_names_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there may belong to another user than this process, as in a container with an arbitrary user."""
    (tmp_path / "venv").mkdir()

    def hint(path: Path) -> str:
        return environment_error(PermissionError(13, "Permission denied", str(path)), "applying").hint

    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    for path in (tmp_path / "venv", tmp_path / "venv" / "new" / "file"):
        expected = f"run as uid {own}, which owns {tmp_path / 'venv'} (this process is uid {own + 1})"
        assert hint(path).startswith(expected), hint(path)
    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert hint(tmp_path / "venv" / "new").startswith(f"{tmp_path / 'venv'} belongs to this process's uid, {own}: ")


def test_an_image_is_all_that_a_replacement_must_carry_over(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"data")
    file.chmod(0o4750)
    os.utime(file, ns=(1, 10**18 + 1))
    image = read_image(file)
    assert image == FileImage(b"data", 0o4750, 10**18 + 1, (file.stat().st_uid, file.stat().st_gid))
    assert image is not None
    assert image.sha256 == sha256(b"data")
    (tmp_path / "link").symlink_to("x")
    assert read_image(tmp_path / "link") == image._replace(link="x")
    assert read_image(tmp_path / "none") is None
    assert read_image(file / "below") is None


def test_same_content_is_bytes_and_kind() -> None:
    image = FileImage(b"x", 0o644)
    assert image.same_content(FileImage(b"x", 0o600, 5))
    assert not image.same_content(FileImage(b"y"))
    assert not image.same_content(FileImage(b"x", link="there"))
    assert not image.same_content(None)


def test_a_link_that_may_not_be_followed_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("x")

    stat = os.stat

    def denied(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        if follow_symlinks:
            raise PermissionError(errno.EACCES, "no", path)
        return stat(path, dir_fd=dir_fd, follow_symlinks=False)

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(PermissionError):
        read_image(tmp_path / "link")


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        Disk().write_new(tmp_path / "x", FileImage(b"ours"))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for image in (FileImage(b"ours"), FileImage(b"", link="there")):
        with pytest.raises(FileExistsError):
            Disk().write_new(tmp_path / "link", image)
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "x").read_bytes() == b"theirs"


def test_a_file_is_private_until_it_is_whole(tmp_path: Path) -> None:
    """case_8: nobody can read a half-written file that is set-id or owned by someone else."""
    seen = []

    class Watch(Disk):
        def step(self, name: str, path: Path) -> None:
            if name == "fsync":
                seen.append((path.read_bytes(), stat.S_IMODE(path.stat().st_mode)))

    old = os.umask(0)
    try:
        Watch().write_new(tmp_path / "x", FileImage(b"data", 0o4755, 10**18))
    finally:
        os.umask(old)
    assert seen == [(b"data", 0o4755)]
    assert (tmp_path / "x").stat().st_mtime_ns == 10**18


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_closed_when_a_step_fails(tmp_path: Path) -> None:
    class Broken(Disk):
        def step(self, name: str, path: Path) -> None:
            if name == "fsync":
                raise OSError(errno.EIO, "no")

    before = descriptors()
    for number in range(5):
        with pytest.raises(OSError, match="no"):
            Broken().write_new(tmp_path / str(number), FileImage(b"x"))
    with pytest.raises(NotADirectoryError):
        Disk().sync_directory(tmp_path / "0")
    Disk().sync_directory(tmp_path)
    Disk().mkdir(tmp_path / "folder")
    assert descriptors() == before


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    Disk().unlink(tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, "eacces", "uid"),
        (errno.EPERM, "eperm", "lsattr"),
        (errno.EROFS, "erofs", "read-only"),
        (errno.ENOSPC, "enospc", "free some space"),
        (errno.EDQUOT, "edquot", "quota"),
        (errno.EIO, "eio", ""),
    ],
)
def test_an_error_says_what_where_by_whom_and_what_is_left(number: int, code: str, words: str) -> None:
    """case_3 case_4 case_6 case_7"""
    error = environment_error(OSError(number, os.strerror(number), "/x/y"), "applying", "all is as before")
    assert (error.exit, error.code, error.file) == (Exit.ENVIRONMENT, code, "/x/y")
    assert error.message == f"{os.strerror(number)} while applying; all is as before"
    assert words in error.hint
    assert bool(error.hint) == bool(words)


def test_an_error_without_number_or_name_is_told_too() -> None:
    error = environment_error(OSError("strange"), "applying")
    assert (error.code, error.file, error.message) == ("io-error", "", "strange while applying; nothing was changed")
    assert environment_error(OSError(5, "x", b"/b\xff"), "applying").file == "/b\udcff"
    assert environment_error(OSError(5, "x", 7), "applying").file == "", "of a call by descriptor: its number"


def test_what_is_refused_names_the_file(tmp_path: Path) -> None:
    """case_17"""
    with pytest.raises(GaudiPatchError) as caught:
        read_image(tmp_path)
    assert (caught.value.code, caught.value.file) == ("not-a-file", str(tmp_path))


def test_what_the_system_says_is_gone_and_is_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems do this: a state mistaken for missing loses the way back; a false removal is a lie."""
    file = tmp_path / "state.json"
    file.write_bytes(b"{}")
    disk = Disk()

    def once(call: Callable[..., object]) -> Callable[..., object]:
        """Wrap ``call`` so that its first answer is a stale one from a file system's cache."""
        answered: list[object] = []

        def gone(name: object, *arguments: object, **options: object) -> object:
            if not answered and (name == "state.json" or isinstance(name, int)):
                answered.append(name)
                raise FileNotFoundError(2, "No such file or directory", name)
            return call(name, *arguments, **options)

        return gone

    def fails(call: Callable[[], object]) -> bool:
        try:
            call()
        except FileNotFoundError as error:
            return error.filename in (str(file), str(tmp_path))
        return False

    for name, call in {
        "unlink": lambda: disk.unlink(file),
        "open": lambda: disk.read(file),
        "stat": lambda: disk.read(file),
        "listdir": lambda: disk.names(tmp_path),
    }.items():
        with monkeypatch.context() as patched:
            patched.setattr(os, name, once(getattr(os, name)))
            assert fails(call), name
    file.unlink()
    disk.unlink(file)
    assert disk.read(file) is None
    file.write_bytes(b"no directory")
    assert disk.names(file) == []
