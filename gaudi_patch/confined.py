"""Confine paths to a few areas of the file system: directories are opened one by one, and no link leads out.

Whoever owns a target can replace any part of a path by a link or another directory, at any time.
So the kernel never gets a whole path. From ``/`` on, each part is opened relative to the descriptor of the part
before it, without following links. The last part is read, written, renamed or removed relative to its directory's
descriptor.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import GaudiPatchError, refused
from gaudi_patch.opening import (
    LIMIT,
    MAX_LINKS,
    UNCHANGED,
    WALK,
    is_gone,
    link_at,
    open_in_image,
    open_linked,
    parts_below,
    read_all,
    step,
)


class Area(NamedTuple):
    """An area that may be read and written: everything at and below ``root`` + ``parts``.

    ``root`` is a real path, or ``real`` is what it resolves to. With ``links``, a directory may be a link that stays
    inside the area, and a file may be a link to anywhere, whose bytes may be read. Without, every link is refused.
    ``files`` is the pattern for names of files, ``limit`` the largest size in bytes; ``flat`` excludes everything
    below the first level.
    """

    root: Path
    parts: tuple[str, ...] = ()
    links: bool = False
    files: re.Pattern[str] | None = None
    flat: bool = False
    limit: int = LIMIT
    real: Path | None = None


class Bounds:
    """The areas that a run is confined to. ``image`` is the root at which absolute links of an unpacked image start."""

    def __init__(self, areas: Sequence[Area], image: Path | None = None) -> None:
        self.areas, self.image = tuple(areas), image

    def area(self, path: Path, *, directory: bool = False) -> Area:
        """Return the area that contains the file (or ``directory``) ``path``; refuse a path outside all areas."""
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
        """Return whether ``path`` lies in an area, judged by its text."""
        try:
            self.area(path)
        except GaudiPatchError:
            return False
        return True

    def holds_directory(self, path: Path) -> bool:
        """Return whether the directory ``path`` lies in an area, judged by its text."""
        try:
            self.area(path, directory=True)
        except GaudiPatchError:
            return False
        return True

    def may_be_link(self, path: Path) -> bool:
        """Return whether the file ``path`` may be a symbolic link; bytecode may not."""
        return self.holds(path) and self.area(path).links and path.suffix != ".pyc"

    def read_through(self, path: Path, link: str) -> bytes | None:
        """Return the bytes behind a link from ``path`` to ``link``; None if they cannot be read."""
        try:
            if self.image is not None:
                opened = open_in_image(path.parent, self.image, link)
            else:
                with self.parent(path) as folder:
                    opened = open_linked(folder, link, path, None)
            return None if opened is None else read_all(opened, path, self.area(path).limit)
        except (OSError, GaudiPatchError):
            return None

    @contextmanager
    def parent(self, path: Path, *, directory: bool = False) -> Iterator[int]:
        """Open the parent of the file (or ``directory``) ``path`` in an area, for use as ``dir_fd``."""
        area = self.area(path, directory=directory)
        descriptor = _walk(path.parent, area)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def directory(self, path: Path) -> Iterator[int]:
        """Open the directory ``path`` itself for reading; it lies in an area or on the way to one."""
        area = next(
            (candidate for candidate in self.areas if _in(path, candidate) is not None or _on_the_way(path, candidate)),
            None,
        )
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
        """Refuse ``path`` if it lies outside all areas, or a link on the way leads out of its area."""
        try:
            with self.parent(path, directory=directory):
                pass
        except NotADirectoryError:
            return  # the writer reports what is in the way
        except FileNotFoundError:
            if not is_gone(path):
                raise
            return  # created later

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in the directory ``path``; empty if it does not exist."""
        try:
            with self.directory(path) as descriptor:
                return sorted(os.listdir(descriptor))  # noqa: PTH208 - pathlib takes no descriptor
        except NotADirectoryError:
            return []
        except FileNotFoundError:
            if is_gone(path):
                return []
            raise
        except OSError as error:
            error.filename = str(path)  # not the number of the descriptor
            raise


def outside(path: Path) -> GaudiPatchError:
    """Return the error for a path outside the package and its state."""
    return refused("outside-package", f"lies outside the package and its state; {UNCHANGED}", file=str(path))


def linked(path: Path, link: str) -> GaudiPatchError:
    """Return the error for a link where no link is allowed."""
    return refused(
        "link-in-the-way",
        f"is a symbolic link to {link}, which gaudi-patch does not follow here; {UNCHANGED}",
        "find out who made the link, remove it, and run the same command again",
        str(path),
    )


def _in(path: Path, area: Area) -> tuple[str, ...] | None:
    """Return the parts of ``path`` below ``area``, judged by its text; None if it is outside."""
    below, depth = parts_below(path, area.root), len(area.parts)
    if below is None or below[:depth] != area.parts or (area.flat and len(below) != depth + 1):
        return None
    return below[depth:]


def _on_the_way(path: Path, area: Area) -> bool:
    below = parts_below(path, area.root)
    return below is not None and area.parts[: len(below)] == below


def _walk(path: Path, area: Area) -> int:
    """Open the directory ``path`` of ``area`` (O_PATH), part by part."""
    below = parts_below(path, area.root)
    assert below is not None
    # A stack, so that ".." in a link inside the area leads back the same way.
    opened = [os.open("/", WALK)]
    names: list[str] = []
    todo = [*reversed(below)]
    links = 0
    try:
        for part in (area.real or area.root).parts[1:]:
            opened.append(step(opened[-1], part, path))
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
                opened.append(step(opened[-1], part, path))
                names.append(part)
            except NotADirectoryError:
                link = link_at(opened[-1], part)
                if link is None:
                    raise
                if not area.links or part == "__pycache__" or len(names) < len(area.parts):
                    raise linked(Path(area.root, *names, part), link) from None
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
                if link.startswith("/"):
                    inside = parts_below(Path(link), area.root)
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
    """Return the error for a directory of the package that is a link out of it."""
    return refused("outside-package", f"leads out of the package, to {where}; {UNCHANGED}", file=str(path))
