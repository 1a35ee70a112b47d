"""Hold paths to a few areas of the file system: directories are opened one by one, and no link leads out.

Whoever owns a target can put a link, or another directory, in the place of any part of it, at any time.
So a path is never handed to the kernel as a whole: from ``/`` on each part is opened by the descriptor of
the one before it, without following links, and the last part is read, written, renamed or removed by the
descriptor of its directory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import GaudiPatchError, refused

#: As many links as Linux follows in one path.
MAX_LINKS = 40
#: Read no file beyond this unless its area says otherwise.
LIMIT = 64 * 1024 * 1024

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNCHANGED = "nothing was changed"


class Area(NamedTuple):
    """One place that may be read and written: everything at and below ``root`` + ``parts``.

    ``root`` is a real path, or ``real`` is what it leads to. With ``links`` a directory may be a link that
    stays inside the area, and a file a link to anywhere, whose bytes may be read; without, every link is
    refused. ``files`` is what the name of a file must match, ``limit`` the size in bytes of the largest one;
    ``flat`` leaves out all that lies deeper than the first level.
    """

    root: Path
    parts: tuple[str, ...] = ()
    links: bool = False
    files: re.Pattern[str] | None = None
    flat: bool = False
    limit: int = LIMIT
    real: Path | None = None


class Bounds:
    """The areas that a run is held to. ``image`` is the root that links of an unpacked image start from."""

    def __init__(self, areas: Sequence[Area], image: Path | None = None) -> None:
        self.areas, self.image = tuple(areas), image

    def area(self, path: Path, *, directory: bool = False) -> Area:
        """Return the area of the file, or ``directory``, ``path``; refuses what lies in none."""
        for area in self.areas:
            below = _in(path, area)
            if below is None:
                continue
            if directory and not area.flat:
                return area
            if not directory and below and (area.files is None or area.files.fullmatch(path.name)):
                return area
        raise outside(path)

    def holds(self, path: Path) -> bool:
        """Whether ``path`` lies in an area, by its text."""
        try:
            self.area(path)
        except GaudiPatchError:
            return False
        return True

    def holds_directory(self, path: Path) -> bool:
        """Whether the directory ``path`` lies in an area, by its text."""
        try:
            self.area(path, directory=True)
        except GaudiPatchError:
            return False
        return True

    def may_be_link(self, path: Path) -> bool:
        """Whether the file ``path`` may be a symbolic link; bytecode may not."""
        return self.holds(path) and self.area(path).links and path.suffix != ".pyc"

    def read_through(self, path: Path, link: str) -> bytes | None:
        """Return the bytes that a link ``path`` to ``link`` would lead to, None where they cannot be had."""
        try:
            if self.image is not None:
                opened = _open_in_image(path.parent, self.image, link)
            else:
                with self.parent(path) as folder:
                    opened = open_linked(folder, link, path, None)
            return None if opened is None else read_all(opened, path, self.area(path).limit)
        except (OSError, GaudiPatchError):
            return None

    @contextmanager
    def parent(self, path: Path, *, directory: bool = False) -> Iterator[int]:
        """Open the directory of the file, or ``directory``, ``path``, which lies in an area, for use as ``dir_fd``."""
        area = self.area(path, directory=directory)
        descriptor = _walk(path.parent, area)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def directory(self, path: Path) -> Iterator[int]:
        """Open the directory ``path`` itself, readable: one in an area, or on the way down to one."""
        area = next((one for one in self.areas if _in(path, one) is not None or _on_the_way(path, one)), None)
        if area is None:
            raise outside(path)
        walked = _walk(path, area)
        try:
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=walked)
        finally:
            os.close(walked)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def look(self, path: Path, *, directory: bool = False) -> None:
        """Refuse ``path`` where it lies in no area, or a link on the way to it leads out of its own."""
        try:
            with self.parent(path, directory=directory):
                pass
        except (FileNotFoundError, NotADirectoryError):
            return  # made later on

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in the directory ``path``; none where it does not exist."""
        try:
            with self.directory(path) as descriptor:
                return sorted(os.listdir(descriptor))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []


def outside(path: Path) -> GaudiPatchError:
    """A path that is none of ours."""
    return refused("outside-package", f"lies outside of the package and its state; {_UNCHANGED}", file=str(path))


def linked(path: Path, link: str) -> GaudiPatchError:
    """A link where none may be."""
    return refused(
        "link-in-the-way",
        f"is a symbolic link to {link}; gaudi-patch follows none here; {_UNCHANGED}",
        "look at who made the link, remove it, and run the same command again",
        str(path),
    )


def _below(path: Path, root: Path) -> tuple[str, ...] | None:
    """Return the parts of ``path`` below ``root``; None for another path, and for one with ``..`` in it."""
    own, parts = root.parts, path.parts
    if parts[: len(own)] != own or ".." in parts:
        return None
    return parts[len(own) :]


def _in(path: Path, area: Area) -> tuple[str, ...] | None:
    """Return the parts of ``path`` below what ``area`` holds, by its text; None for what is not in it."""
    below, depth = _below(path, area.root), len(area.parts)
    if below is None or below[:depth] != area.parts or (area.flat and len(below) != depth + 1):
        return None
    return below[depth:]


def _on_the_way(path: Path, area: Area) -> bool:
    below = _below(path, area.root)
    return below is not None and area.parts[: len(below)] == below


def _walk(path: Path, area: Area) -> int:
    """Open the directory ``path`` of ``area`` (O_PATH), part by part."""
    below = _below(path, area.root)
    assert below is not None
    # A stack, so that ".." of a link inside the area leads back the way that was taken.
    opened = [os.open("/", _WALK)]
    names: list[str] = []
    todo = [*reversed(below)]
    links = 0
    try:
        for part in (area.real or area.root).parts[1:]:
            opened.append(_step(opened[-1], part, path))
        base = len(opened)
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not names:
                    raise leads_out(path, "..")
                names.pop()
                os.close(opened.pop())
                continue
            try:
                opened.append(_step(opened[-1], part, path))
                names.append(part)
            except NotADirectoryError:
                link = _link_at(opened[-1], part)
                if link is None:
                    raise
                if not area.links or part == "__pycache__" or len(names) < len(area.parts):
                    raise linked(Path(area.root, *names, part), link) from None
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
                if link.startswith("/"):
                    inside = _below(Path(link), area.root)
                    if inside is None:
                        raise leads_out(path, link) from None
                    while len(opened) > base:
                        os.close(opened.pop())
                    names.clear()
                    todo.extend(reversed(inside))
                else:
                    todo.extend(reversed(link.split("/")))
        if len(below) >= len(area.parts) and tuple(names[: len(area.parts)]) != area.parts:
            raise leads_out(path, str(Path(area.root, *names)))
        return opened.pop()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def leads_out(path: Path, where: str) -> GaudiPatchError:
    """A directory of the package that is a link to another place."""
    return refused("outside-package", f"leads out of the package, to {where}; {_UNCHANGED}", file=str(path))


def _step(descriptor: int, part: str, path: Path) -> int:
    try:
        return os.open(part, _WALK, dir_fd=descriptor)
    except OSError as error:
        error.filename = str(path)
        raise


def _link_at(descriptor: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=descriptor)
    except OSError:
        return None


def open_file(descriptor: int, name: str, path: Path) -> int | None:
    """Open the regular file ``name`` of the directory ``descriptor`` to be read; None where there is none.

    A link is not followed (ELOOP). Looks before it opens, as opening a device can do something, and after it.
    """
    try:
        info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISREG(info.st_mode):
        raise not_a_file(path)
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        error.filename = str(path)
        raise
    return _regular(opened, path)


def open_linked(descriptor: int, name: str, path: Path, image: Path | None) -> int | None:
    """Open the regular file that the link ``name`` leads to; None where it leads nowhere.

    In an unpacked image the link is followed as inside of it: one that is absolute starts at ``image``.
    """
    if image is not None:
        return _open_in_image(path, image)
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


def _open_in_image(path: Path, image: Path, link: str = "") -> int | None:
    """Open the file that ``path``, or ``link`` in the directory ``path``, leads to inside ``image``, part by part."""
    below = _below(path, image)
    if below is None:
        return None
    opened = [os.open("/", _WALK)]
    todo = [*reversed([*([] if link.startswith("/") else below), *link.split("/")])]
    links = 0
    try:
        for part in image.parts[1:]:
            opened.append(_step(opened[-1], part, path))
        base = len(opened)
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(opened) > base:
                    os.close(opened.pop())
                continue
            target = _link_at(opened[-1], part)
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    return None
                while target.startswith("/") and len(opened) > base:
                    os.close(opened.pop())
                todo.extend(reversed(target.split("/")))
            elif todo and any(one not in ("", ".") for one in todo):
                opened.append(_step(opened[-1], part, path))
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
    """A FIFO, device, socket or directory where a file should be."""
    return refused("not-a-file", f"is not a regular file; {_UNCHANGED}", file=str(path))


def read_all(opened: int, path: Path, limit: int = LIMIT) -> bytes:
    """Read and close the descriptor ``opened``; refuses more than ``limit`` bytes before they are in memory."""
    with open(opened, "rb") as stream:
        if os.fstat(opened).st_size <= limit:
            data = stream.read(limit + 1) or b""  # None: a file of /proc that waits for something to happen
            if len(data) <= limit:
                return data
    raise refused("too-large", f"is larger than {limit >> 20} MiB, which no file here is; {_UNCHANGED}", file=str(path))
