"""Open a path's part or a file by its directory's descriptor: regular files only, no implicit links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from gaudi_patch.errors import GaudiPatchError, refused

#: The number of links that Linux follows in one path.
MAX_LINKS = 40
#: Read no larger file unless its area allows it.
LIMIT = 64 * 1024 * 1024
#: Traverse a directory; this needs no permission to list it.
WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

UNCHANGED = "nothing was changed"


def parts_below(path: Path, root: Path) -> tuple[str, ...] | None:
    """Return the parts of ``path`` below ``root``; None for a path elsewhere or with ``..`` in it."""
    own, parts = root.parts, path.parts
    if parts[: len(own)] != own or ".." in parts:
        return None
    return parts[len(own) :]


def is_gone(path: str | Path, descriptor: int | None = None) -> bool:
    """Check again whether nothing is at ``path``, or at that name in the directory ``descriptor``.

    Use it after ENOENT from opening or removing a file: network file systems report ENOENT for existing files, and
    without its state or journal an installation cannot be rolled back.
    """
    try:
        os.stat(path, dir_fd=descriptor, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def look_at(path: Path, *, follow: bool = False) -> os.stat_result | None:
    """Return the status of ``path``, or of what it links to; None only if nothing is there.

    Raises any other error. os.path.lexists, and pathlib's methods from Python 3.14 on, also answer False for EACCES
    and EIO, and a temporary file mistaken for missing would never be removed.
    """
    try:
        try:
            return path.stat(follow_symlinks=follow)
        except FileNotFoundError:
            return path.stat(follow_symlinks=follow)  # see is_gone
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def is_there(path: Path) -> bool:
    """Return whether anything is at ``path``, including a dangling link; raise errors."""
    return look_at(path) is not None


def is_directory(path: Path, *, follow: bool = True) -> bool:
    """Return whether ``path`` is a directory, or with ``follow`` a link to one; raise errors."""
    info = look_at(path, follow=follow)
    return info is not None and stat.S_ISDIR(info.st_mode)


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a regular file or a link to one; raise errors."""
    info = look_at(path, follow=True)
    return info is not None and stat.S_ISREG(info.st_mode)


def step(descriptor: int, part: str, path: Path) -> int:
    """Open the subdirectory ``part`` for traversal; errors name ``path``."""
    try:
        return os.open(part, WALK, dir_fd=descriptor)
    except OSError as error:
        error.filename = str(path)
        raise


def link_at(descriptor: int, name: str) -> str | None:
    """Return the target of the link ``name``; None if it is not a link."""
    try:
        return os.readlink(name, dir_fd=descriptor)
    except OSError:
        return None


def open_file(descriptor: int, name: str, path: Path) -> int | None:
    """Open the regular file ``name`` of the directory ``descriptor`` for reading; return None if it is missing.

    A link is not followed (ELOOP). The type is checked before opening, because opening a device can have effects, and
    after.
    """
    try:
        info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except NotADirectoryError:
        return None
    except FileNotFoundError as error:
        if is_gone(name, descriptor):
            return None
        error.filename = str(path)
        raise
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISREG(info.st_mode):
        raise not_a_file(path)
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    except FileNotFoundError as error:
        if is_gone(name, descriptor):
            return None
        error.filename = str(path)
        raise
    except OSError as error:
        error.filename = str(path)
        raise
    return _regular(opened, path)


def open_linked(descriptor: int, name: str, path: Path, image: Path | None) -> int | None:
    """Open the regular file that the link ``name`` leads to; None if the link is dangling.

    In an unpacked image, an absolute link starts at ``image``.
    """
    if image is not None:
        return open_in_image(path, image)
    try:
        info = os.stat(name, dir_fd=descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise not_a_file(path)
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        error.filename = str(path)
        raise
    return _regular(opened, path)


def open_in_image(path: Path, image: Path, link: str = "") -> int | None:
    """Open the file behind ``path``, or behind ``link`` in the directory ``path``, inside ``image``, part by part."""
    below = parts_below(path, image)
    if below is None:
        return None
    opened = [os.open("/", WALK)]
    todo = [*reversed([*([] if link.startswith("/") else below), *link.split("/")])]
    links = 0
    try:
        for part in image.parts[1:]:
            opened.append(step(opened[-1], part, path))
        base = len(opened)
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(opened) > base:
                    os.close(opened.pop())
                continue
            target = link_at(opened[-1], part)
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    return None
                while target.startswith("/") and len(opened) > base:
                    os.close(opened.pop())
                todo.extend(reversed(target.split("/")))
            elif todo and any(name not in ("", ".") for name in todo):
                opened.append(step(opened[-1], part, path))
            else:
                return open_file(opened[-1], part, path)
        raise not_a_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _regular(opened: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise not_a_file(path)


def not_a_file(path: Path) -> GaudiPatchError:
    """Return the error for a FIFO, device, socket or directory in place of a file."""
    return refused("not-a-file", f"is not a regular file; {UNCHANGED}", file=str(path))


def read_all(opened: int, path: Path, limit: int = LIMIT) -> bytes:
    """Read and close the descriptor ``opened``; refuse more than ``limit`` bytes before they fill memory."""
    with open(opened, "rb") as stream:
        if os.fstat(opened).st_size <= limit:
            data = stream.read(limit + 1) or b""  # None: a file of /proc that blocks until something happens
            if len(data) <= limit:
                return data
    raise refused(
        "too-large", f"is larger than {limit >> 20} MiB, the limit for files here; {UNCHANGED}", file=str(path)
    )
