"""The narrow interface to the file system: every step of a transaction goes through one method here.

Bytes only. No file is opened for writing in place: uv and conda hardlink installed files to their cache, and a write
through one name would change every environment (astral-sh/uv#10579). Tests subclass :class:`Disk` to kill the
process, or to raise, at step *n*.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gaudi_patch import attributes, confined, opening
from gaudi_patch.confined import Area, Bounds
from gaudi_patch.errors import Exit, GaudiPatchError, refused


def sha256(data: bytes) -> str:
    """Return the hex digest by which every file's state is decided."""
    return hashlib.sha256(data).hexdigest()


class FileImage(NamedTuple):
    """The content of a path: the bytes, and the metadata that a replacement must carry over.

    ``link`` is the target of a symbolic link (``uv --link-mode=symlink`` installs them); ``data`` are the
    bytes behind it. ``owner`` is None for a file that does not exist yet. ``attributes`` are the user's extended
    attributes and the access ACL.
    """

    data: bytes
    mode: int = 0o644
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    link: str | None = None
    attributes: tuple[tuple[str, bytes], ...] = ()

    @property
    def sha256(self) -> str:
        return sha256(self.data)

    def same_content(self, other: FileImage | None) -> bool:
        """Return whether both have the same bytes in the same kind of file."""
        return other is not None and self.data == other.data and self.link == other.link


def read_image(path: Path, bounds: Bounds | None = None) -> FileImage | None:
    """Read the file ``path``; return None if it is missing, refuse what is neither a file nor a link to one.

    Confined to ``bounds`` if given. Never opens a FIFO or device, and never reads a file over the size limit.
    """
    try:
        with _parent(path, bounds) as folder:
            return _read(folder, path, bounds)
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        if opening.is_gone(path):
            return None
        raise


def _read(folder: int, path: Path, bounds: Bounds | None) -> FileImage | None:
    area = bounds.area(path) if bounds is not None else Area(Path("/"), links=True)
    link = None
    try:
        opened = opening.open_file(folder, path.name, path)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        link = os.readlink(path.name, dir_fd=folder)
        if not area.links or path.suffix == ".pyc":
            raise confined.linked(path, link) from None
        opened = opening.open_linked(folder, path.name, path, bounds.image if bounds is not None else None)
        if opened is None:
            what = f"is a symbolic link to {link}, which leads nowhere; nothing was changed"
            raise refused("dangling-link", what, file=str(path)) from None
    if opened is None:
        return None
    info = os.fstat(opened)
    kept = attributes.read(opened) if link is None else ()
    data = opening.read_all(opened, path, area.limit)
    return FileImage(data, stat.S_IMODE(info.st_mode), info.st_mtime_ns, (info.st_uid, info.st_gid), link, kept)


@contextmanager
def _parent(path: Path, bounds: Bounds | None, *, directory: bool = False) -> Iterator[int]:
    """Open the directory of ``path`` for use as ``dir_fd``; errors in the block name the whole path."""
    try:
        if bounds is not None:
            with bounds.parent(path, directory=directory) as folder:
                yield folder
        else:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield folder
            finally:
                os.close(folder)
    except OSError as error:
        raise _named(error, path)  # noqa: B904 - the same error


def _named(error: OSError, path: Path) -> OSError:
    # With a directory descriptor, the system's error names only the last part.
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if not name.startswith("/"):
        error.filename = str(path)
    if error.filename2 is not None:
        del error.filename2
    return error


class Disk:
    """The disk operations of a transaction. ``step`` is called before each; tests override it.

    In a block of :meth:`within`, every path is confined to the given bounds.
    """

    bounds: Bounds | None = None

    def step(self, name: str, path: Path) -> None:
        """Do nothing; tests override this to inject faults and to record the order of calls."""

    @contextmanager
    def within(self, bounds: Bounds) -> Iterator[None]:
        """Confine every path to ``bounds`` until the block ends."""
        before, self.bounds = self.bounds, bounds
        try:
            yield
        finally:
            self.bounds = before

    def read(self, path: Path) -> FileImage | None:
        self.step("read", path)
        return read_image(path, self.bounds)

    def write_new(
        self, path: Path, image: FileImage, like: Path | None = None, parts: Iterable[bytes] | None = None
    ) -> None:
        """Create ``path``, which must not exist, with the content of ``image``; durable on return.

        It gets exactly the mode, owner and attributes of ``image``: an inherited ACL is removed. The SELinux label is
        copied from ``like``, if permitted. ``parts`` yields the bytes if they should not be in memory at once.
        """
        with _parent(path, self.bounds) as folder:
            if image.link is not None:
                self.step("symlink", path)
                os.symlink(image.link, path.name, dir_fd=folder)
                return
            self.step("write", path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path.name, flags, 0o600, dir_fd=folder)
            with open(descriptor, "wb") as stream:
                for part in (image.data,) if parts is None else parts:
                    stream.write(part)
                stream.flush()
                # Owner before mode: chown clears the set-id bits. A user's attributes before a read-only mode.
                _give(descriptor, image.owner or _owner_of(folder))
                attributes.put(descriptor, image.attributes, "user.")
                attributes.take_off(descriptor)
                os.fchmod(descriptor, image.mode)
                attributes.put(descriptor, image.attributes, attributes.ACL)
                if like is not None:
                    self._copy_label(like, descriptor)
                if image.mtime_ns is not None:
                    os.utime(descriptor, ns=(image.mtime_ns, image.mtime_ns))
                self.step("fsync", path)
                os.fsync(descriptor)

    def _copy_label(self, source: Path, descriptor: int) -> None:
        try:
            with _parent(source, self.bounds) as folder:
                opened = opening.open_file(folder, source.name, source)
        except (OSError, GaudiPatchError):
            return
        if opened is not None:
            with open(opened, "rb"):
                attributes.copy_label(opened, descriptor)

    def replace(self, source: Path, target: Path) -> None:
        with _parent(source, self.bounds) as origin, _parent(target, self.bounds) as folder:
            self.step("replace", target)
            os.replace(source.name, target.name, src_dir_fd=origin, dst_dir_fd=folder)

    def unlink(self, path: Path) -> None:
        """Remove a file or link; a missing one is no error."""
        self.step("unlink", path)
        try:
            with _parent(path, self.bounds) as folder:
                os.unlink(path.name, dir_fd=folder)
        except FileNotFoundError:
            if not opening.is_gone(path):
                raise

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """Create a directory with the owner of its parent; the set-gid bit is inherited."""
        self.step("mkdir", path)
        with _parent(path, self.bounds, directory=True) as folder:
            os.mkdir(path.name, dir_fd=folder)
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(path.name, flags, dir_fd=folder)
                try:
                    _give(descriptor, _owner_of(folder))
                    inherited = os.fstat(descriptor).st_mode & stat.S_ISGID
                    os.fchmod(descriptor, mode | inherited)  # mkdir's own argument is subject to the umask
                finally:
                    os.close(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(path.name, dir_fd=folder)
                raise

    def rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        with _parent(path, self.bounds, directory=True) as folder:
            os.rmdir(path.name, dir_fd=folder)

    def sync_directory(self, path: Path) -> None:
        self.step("fsync-dir", path)
        with self._directory(path) as descriptor:
            os.fsync(descriptor)

    def set_time(self, path: Path, time_ns: int) -> None:
        """Set the mtime of a directory."""
        self.step("utime", path)
        with self._directory(path) as descriptor:
            os.utime(descriptor, ns=(time_ns, time_ns))

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in the directory ``path``; none where it does not exist."""
        try:
            with self._directory(path) as descriptor:
                return sorted(os.listdir(descriptor))  # noqa: PTH208 - pathlib takes no descriptor
        except NotADirectoryError:
            return []
        except FileNotFoundError:
            if opening.is_gone(path):
                return []
            raise

    @contextmanager
    def _directory(self, path: Path) -> Iterator[int]:
        try:
            if self.bounds is not None:
                with self.bounds.directory(path) as descriptor:
                    yield descriptor
            else:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    yield descriptor
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise _named(error, path)  # noqa: B904 - the same error


def _owner_of(descriptor: int) -> tuple[int, int]:
    info = os.fstat(descriptor)
    return info.st_uid, info.st_gid


def _give(descriptor: int, owner: tuple[int, int]) -> None:
    info = os.fstat(descriptor)
    if owner != (info.st_uid, info.st_gid):
        with contextlib.suppress(PermissionError):  # only root can change a file's owner
            os.fchown(descriptor, *owner)


def environment_error(error: OSError, doing: str, left: str = "nothing was changed") -> GaudiPatchError:
    """Turn an operating-system error into a user error: what failed, where, for which user, and what state is left."""
    # After a call by descriptor, the system's error names a number instead of a path.
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    hint = {
        "EACCES": _who_may(path),
        "EPERM": "the file may be immutable (lsattr), or owned by another user",
        "EROFS": "the file system is mounted read-only; patch the image where it is built",
        "ENOSPC": "free some space and run the same command again",
        "EBUSY": "a file that is itself a mount (container -v FILE:FILE) cannot be replaced",
        "EDQUOT": "the disk quota is used up; free some space and run the same command again",
    }.get(_errno_name(error), "")
    message = f"{error.strerror or error} while {doing}; {left}"
    return GaudiPatchError(Exit.ENVIRONMENT, _errno_name(error).lower() or "io-error", message, hint, path)


def _who_may(path: str) -> str:
    """Return what to do where permission is denied, by the owner of what is there of ``path``."""
    own = os.geteuid()
    for place in (Path(path), *Path(path).parents) if path else ():
        with contextlib.suppress(OSError):
            owner = place.lstat().st_uid
            if owner == own:
                return f"{place} belongs to this process's uid, {own}: check its mode, and its directory's"
            return f"run as uid {owner}, which owns {place} (this process is uid {own}); in a Dockerfile: before USER"
    return f"run as the owner of the directory (this process is uid {own}); in a Dockerfile: before USER"


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")
