"""The narrow seam to the file system: every step of a transaction goes through one method here.

Bytes only. Nothing is ever opened for writing in place: uv and conda hardlink installed files to their
cache, and a write through one name would change every environment (astral-sh/uv#10579).
Tests subclass :class:`Disk` to kill the process, or to raise, at step *n*.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError, refused


def sha256(data: bytes) -> str:
    """Hex digest by which every state is decided."""
    return hashlib.sha256(data).hexdigest()


class Image(NamedTuple):
    """What one path holds: the bytes, and the metadata that a replacement must carry over.

    ``link`` is the target of a symbolic link (``uv --link-mode=symlink`` installs them); ``data`` are the
    bytes behind it. ``owner`` is None for a file that does not exist yet.
    """

    data: bytes
    mode: int = 0o644
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    link: str | None = None

    @property
    def sha256(self) -> str:
        return sha256(self.data)

    def same_content(self, other: Image | None) -> bool:
        """Whether both hold the same bytes in the same kind of file."""
        return other is not None and self.data == other.data and self.link == other.link


def read_image(path: Path) -> Image | None:
    """Read what ``path`` holds, None when nothing is there; refuses what is neither file nor link to one.

    The type is checked before the open, and the open is non-blocking, so that a FIFO cannot hang us.
    """
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    link = None
    if stat.S_ISLNK(info.st_mode):
        link = os.readlink(path)
        try:
            info = path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            what = f"is a symbolic link to {link}, which leads nowhere; nothing was changed"
            raise refused("dangling-link", what, file=str(path)) from None
    if not stat.S_ISREG(info.st_mode):
        raise refused("not-a-file", "is not a regular file; nothing was changed", file=str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        data = stream.read()
    return Image(data, stat.S_IMODE(info.st_mode), info.st_mtime_ns, (info.st_uid, info.st_gid), link)


class Disk:
    """What a transaction does to the disk. ``step`` is called before each; a test overrides it."""

    def step(self, name: str, path: Path) -> None:
        """Do nothing; the seam for fault injection and for recording the order of calls."""

    def read(self, path: Path) -> Image | None:
        self.step("read", path)
        return read_image(path)

    def write_new(self, path: Path, image: Image, like: Path | None = None) -> None:
        """Create ``path`` (which must not exist) holding ``image``, durable once this returns.

        Extended attributes (SELinux labels, capabilities) are taken from ``like`` as far as that is permitted.
        """
        if image.link is not None:
            self.step("symlink", path)
            path.symlink_to(image.link)
            return
        self.step("write", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(image.data)
            stream.flush()
            # Owner before mode: chown clears the set-id bits.
            _give(descriptor, image.owner or _owner_of(path.parent))
            os.fchmod(descriptor, image.mode)
            if like is not None:
                _copy_attributes(like, descriptor)
            if image.mtime_ns is not None:
                os.utime(descriptor, ns=(image.mtime_ns, image.mtime_ns))
            self.step("fsync", path)
            os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self.step("replace", target)
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        self.step("unlink", path)
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """Make a folder that belongs to whom its parent belongs; a set-gid parent hands its bit down."""
        self.step("mkdir", path)
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _give(descriptor, _owner_of(path.parent))
            inherited = os.fstat(descriptor).st_mode & stat.S_ISGID
            os.fchmod(descriptor, mode | inherited)  # mkdir's own argument is subject to the umask
        finally:
            os.close(descriptor)

    def rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        path.rmdir()

    def sync_directory(self, path: Path) -> None:
        self.step("fsync-dir", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def set_time(self, path: Path, time_ns: int) -> None:
        """Set the mtime of a folder."""
        self.step("utime", path)
        os.utime(path, ns=(time_ns, time_ns))


def _owner_of(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_uid, info.st_gid


def _give(descriptor: int, owner: tuple[int, int]) -> None:
    info = os.fstat(descriptor)
    if owner != (info.st_uid, info.st_gid):
        with contextlib.suppress(PermissionError):  # a user who is not root cannot give files away
            os.fchown(descriptor, *owner)


def _copy_attributes(source: Path, descriptor: int) -> None:
    # Best effort: file systems and containers differ in what they store and permit.
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, name, os.getxattr(source, name))


def environment_error(error: OSError, doing: str, left: str = "nothing was changed") -> GaudiPatchError:
    """Turn an operating-system error into what a user reads: what, where, by whom, and what was left."""
    path = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or b"")
    hint = {
        "EACCES": f"run as the owner of the folder (this process is uid {os.geteuid()}); in a Dockerfile: before USER",
        "EPERM": "the file may be immutable (lsattr), or owned by somebody else",
        "EROFS": "the file system is mounted read-only; patch the image where it is built",
        "ENOSPC": "free some space and run the same command again",
        "EDQUOT": "the disk quota is used up; free some space and run the same command again",
    }.get(_errno_name(error), "")
    message = f"{error.strerror or error} while {doing}; {left}"
    return GaudiPatchError(Exit.ENVIRONMENT, _errno_name(error).lower() or "io-error", message, hint, path)


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")
