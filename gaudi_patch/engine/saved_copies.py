"""Save copies of edited files in the user's directory, each complete or absent.

A copy is written to a temporary file, flushed, and renamed. A killed run leaves at most a temporary file, which the
next run for the same installation replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from gaudi_patch.disk import Disk, FileImage


class Found(Enum):
    """What already exists at the name of a copy."""

    NOTHING = "nothing"
    COPY = "the copy"
    PART = "the beginning of the copy"
    OTHER = "another file"


def save(name: str, image: FileImage, directory: Path, disk: Disk, owner: Path) -> Path:
    """Save ``image``, the content of a file called ``name``, durably in ``directory``; return its path.

    ``owner`` is the source installation, whose lock keeps two runs apart. An existing copy is kept; a partial copy
    from an earlier gaudi-patch is replaced; any other file is left alone, and the copy gets a number. Raises OSError.
    """
    for path in _names(directory, f"{name}.gaudi-patch-saved-{image.sha256[:12]}"):
        kind = _found(path, image.data)
        if kind is Found.COPY:
            disk.sync_directory(directory)  # the run that renamed it may have been killed before this fsync
            return path
        if kind is not Found.OTHER:
            _write(path, image, disk, owner)
            return path
    raise AssertionError(name)  # the names never end


def _names(directory: Path, name: str) -> Iterator[Path]:
    yield directory / name
    number = 1
    while True:
        number += 1
        yield directory / f"{name}-{number}"


def _found(path: Path, data: bytes) -> Found:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return Found.NOTHING
    if not stat.S_ISREG(info.st_mode) or info.st_size > len(data):
        return Found.OTHER
    content = path.read_bytes()
    if content == data:
        return Found.COPY
    return Found.PART if data.startswith(content) else Found.OTHER


def _write(path: Path, image: FileImage, disk: Disk, owner: Path) -> None:
    token = hashlib.sha256(bytes(owner)).hexdigest()[:12]
    temp = path.with_name(f".{path.name}.{token}.tmp")
    copy = FileImage(image.data, image.mode & 0o777, image.mtime_ns)
    with contextlib.suppress(OSError):
        disk.unlink(temp)  # left by a killed run
    try:
        disk.write_new(temp, copy)
    except FileExistsError:  # another user's file, which cannot be removed
        temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        disk.write_new(temp, copy)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(temp)
        raise
    try:
        disk.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(temp)
        raise
    disk.sync_directory(path.parent)
