"""Read untrusted files by path: regular files only, with a size limit, without blocking.

A target may contain a FIFO, a device, a socket, an endless or huge file, or JSON made to break a parser. None of
these hangs a run or exhausts memory: each is an error that names the file. Files that a transaction changes go
through ``disk`` instead.
"""

# ruff: noqa: PTH116
# Why: paths come as strings, and are read many times per run.

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes. Configuration and metadata files are far smaller.
TEXT_LIMIT = 4 * 1024 * 1024
#: Far deeper than any real document; Python's parsers fail at about 1,000.
DEPTH_LIMIT = 200

_BLOCK = 1024 * 1024
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


class UnsuitableFileError(OSError):
    """The file is not a regular file, or too large; ``strerror`` says which, ``filename`` where."""

    def __init__(self, path: str, why: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, why, path)


def read_bytes(path: Path | str, limit: int = TEXT_LIMIT, *, follow: bool = True) -> bytes:
    """Read a regular file of at most ``limit`` bytes; ``follow`` says whether it may be a symbolic link.

    Raises UnsuitableFileError for another kind of file or a larger one, and other OSErrors unchanged.
    """
    name = os.fspath(path)
    # Checked before opening, because opening alone makes some devices act; and again after.
    _require_regular(name, os.stat(name, follow_symlinks=follow))
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(name, flags)
    try:
        info = os.fstat(descriptor)
        _require_regular(name, info)
        if info.st_size > limit:
            _too_large(name, limit)
        blocks, size = [], 0
        while block := os.read(descriptor, min(_BLOCK, limit + 1 - size)):
            blocks.append(block)
            size += len(block)
            if size > limit:  # the file grows, or does not report its size (/proc)
                _too_large(name, limit)
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def read_text(path: Path | str, limit: int = TEXT_LIMIT) -> str:
    """Read a file as UTF-8, keeping undecodable bytes as surrogates; raises like ``read_bytes``."""
    return read_bytes(path, limit).decode("utf-8", "surrogateescape")


def parse_json(data: bytes | str) -> object:
    """Parse untrusted JSON.

    Raises only ValueError: for invalid JSON (NaN and Infinity included), nesting deeper than DEPTH_LIMIT, a string
    that can be neither text nor a path (NUL, half of a surrogate pair), or a number that is too long.
    """
    import json

    try:
        value: object = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH_LIMIT} levels") from None
    _check(value)
    return value


def _check(value: object) -> None:
    """Check a parsed value level by level, so that Python's stack never overflows."""
    level = [value]
    for _ in range(DEPTH_LIMIT):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item
                below += item.values()
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {DEPTH_LIMIT} levels")


def _check_text(text: str) -> None:
    if text.isascii():
        if "\0" in text:
            raise ValueError("a string contains a NUL character")
        return
    try:
        if b"\0" in text.encode("utf-8", "surrogateescape"):  # a path's undecodable bytes are such surrogates
            raise ValueError("a string contains a NUL character")
    except UnicodeEncodeError:
        raise ValueError("a string contains half of a surrogate pair") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _require_regular(name: str, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "of an unknown kind")
        raise UnsuitableFileError(name, f"it is {kind}, not a regular file")


def _too_large(name: str, limit: int) -> NoReturn:
    raise UnsuitableFileError(name, f"it is larger than {limit:,} bytes", errno.EFBIG)
