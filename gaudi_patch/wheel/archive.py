"""Wheels as zip archives: read each entry strictly, and copy it without recompressing.

Files that a series does not change are copied in compressed form, and changed files are stored uncompressed. So the
output does not depend on the version or build of zlib, which `zipfile` would use to compress.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn, Protocol

from gaudi_patch.errors import GaudiPatchError, refused

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_UNIX = 3
_UTF8 = 0x800
_ENCRYPTED = 0x1
#: Limits of a zip without its 64-bit extension.
_MOST_BYTES, _MOST_ENTRIES = 0xFFFFFFFE, 0xFFFE
_BLOCK = 1 << 16
#: Size limit of a dist-info file, which is read whole; LMCache's longest RECORD has 150 KB.
SMALL = 16 * 1024 * 1024
#: More than any release has: a wheel of 17 MB could unpack to 17 GB.
MOST_UNPACKED = 2 * 1024**3
#: The allowed names of a member: no control character, no backslash, no colon.
NAME = re.compile(r"[^\x00-\x1f\x7f\\:]+")


class Entry(NamedTuple):
    """One file or directory of an archive.

    ``executable``: whether an installer sets that bit. ``date``: in zip's form.
    """

    name: str
    date: tuple[int, int, int, int, int, int]
    executable: bool
    size: int

    @property
    def is_directory(self) -> bool:
        return self.name.endswith("/")


class Content(NamedTuple):
    """The sha256 and the size in bytes of an entry that was read."""

    sha256: bytes
    size: int


class Archive:
    """A zip file open for reading; each entry is checked as it is read."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        try:
            self._zip = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
            raise damaged(path, f"is not a readable zip file: {error}") from error
        self._infos = {info.filename: info for info in self._zip.infolist()}
        if len(self._infos) != len(self._zip.infolist()):
            names = [info.filename for info in self._zip.infolist()]
            double = sorted({name for name in names if names.count(name) > 1})
            raise damaged(path, f"has two entries named {double[0]!a}")
        if sum(info.file_size for info in self._infos.values()) > MOST_UNPACKED:
            raise damaged(path, "unpacks to more data than any release contains")
        self.entries = tuple(self._entry(info) for info in self._zip.infolist())

    def _entry(self, info: zipfile.ZipInfo) -> Entry:
        name = info.filename
        parts = name.removesuffix("/").split("/")
        if not NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
            raise damaged(self.path, f"has an entry with an unsafe name: {name!a}")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise damaged(self.path, f"{name!a} is encrypted or uses an unsupported compression")
        kind = info.external_attr >> 16 & 0o170000
        if info.create_system == _UNIX and kind not in (0, 0o100000, 0o040000):
            raise damaged(self.path, f"{name!a} is a link or a special file")
        return Entry(name, info.date_time, bool(info.external_attr >> 16 & 0o111), info.file_size)

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file. Raises ``damaged-wheel``."""
        info = self._infos.get(name)
        if info is None:
            raise damaged(self.path, f"has no {name}")
        if info.file_size > SMALL:
            raise damaged(self.path, f"{name} is too large ({info.file_size:,} bytes)")
        sink = io.BytesIO()
        for _, part in self._parts(info, Digest()):
            sink.write(part)
        return sink.getvalue()

    def raw(self, name: str, digest: Digest) -> Iterator[bytes]:
        """Yield the compressed bytes of an entry, and update ``digest`` with the unpacked bytes.

        Raises ``damaged-wheel``, perhaps only after the last bytes, if the entry does not match its archive record.
        """
        for part, _ in self._parts(self._infos[name], digest):
            yield part

    def info(self, name: str) -> zipfile.ZipInfo:
        """Return the archive's record of an entry."""
        return self._infos[name]

    def _parts(self, info: zipfile.ZipInfo, digest: Digest) -> Iterator[tuple[bytes, bytes]]:
        """Yield an entry in parts, each as compressed and unpacked bytes."""
        self._seek(info)
        unpacker = _Inflated() if info.compress_type == zipfile.ZIP_DEFLATED else _Stored()
        left, total, crc = info.compress_size, 0, 0
        while left:
            part = self._stream.read(min(left, _BLOCK))
            if not part:
                self._wrong(info, "is truncated")
            left -= len(part)
            try:
                for data in unpacker.unpacked(part, last=not left):
                    total += len(data)
                    if total > info.file_size:
                        self._wrong(info, "unpacks to more bytes than the archive declares")
                    crc = zlib.crc32(data, crc)
                    digest.update(data)
                    yield part, data
                    part = b""  # its compressed bytes are yielded only once
            except zlib.error as error:
                self._wrong(info, f"cannot be unpacked: {error}")
            if part:
                yield part, b""
        if not unpacker.is_whole:
            self._wrong(info, "has extra bytes after its compressed data")
        if total != info.file_size or crc != info.CRC:
            self._wrong(info, "does not match the checksum or size that the archive declares")

    def _seek(self, info: zipfile.ZipInfo) -> None:
        """Seek to the first byte of an entry, after checking that its local header names it."""
        stream = self._stream
        stream.seek(info.header_offset)
        head = stream.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            self._wrong(info, "has no local header")
        *_, length, extra = _LOCAL.unpack(head)
        if stream.read(length) != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437"):
            self._wrong(info, "has a different name in its local header")
        stream.seek(extra, io.SEEK_CUR)

    def _wrong(self, info: zipfile.ZipInfo, what: str) -> NoReturn:
        raise damaged(self.path, f"{info.filename} {what}")


class _Stored:
    """Unpacks the parts of an uncompressed entry."""

    is_whole = True

    def unpacked(self, part: bytes, *, last: bool) -> Iterator[bytes]:
        yield part


class _Inflated:
    """Unpacks the parts of a deflated entry, at most one block at a time, however high the compression ratio."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self.is_whole = False

    def unpacked(self, part: bytes, *, last: bool) -> Iterator[bytes]:
        while part and not self._zlib.eof:
            yield self._zlib.decompress(part, _BLOCK)
            part = self._zlib.unconsumed_tail
        while last and not self._zlib.eof and (rest := self._zlib.decompress(b"", _BLOCK)):
            yield rest
        self.is_whole = last and self._zlib.eof and not self._zlib.unused_data and not part


class Digest:
    """A running sha256 and byte count of an entry."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._size = 0

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self._hash.update(data)
        self._size += len(data)

    @property
    def content(self) -> Content:
        """Return the sha256 and size so far."""
        return Content(self._hash.digest(), self._size)


class Sink(Protocol):
    """A stream for sequential writes."""

    def write(self, data: bytes, /) -> int: ...


class Writer:
    """A zip file open for writing: the same entries in the same order give the same bytes."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream
        self._central: list[bytes] = []
        self._at = 0

    def copy(self, archive: Archive, entry: Entry, name: str, date: tuple[int, ...]) -> Content:
        """Copy an entry without recompressing it, as ``name``; return its sha256 and size."""
        info, digest = archive.info(entry.name), Digest()
        header = _Header(name, date, entry.executable, info.compress_type, info.CRC, info.compress_size, info.file_size)
        self._begin(header)
        for part in archive.raw(entry.name, digest):
            self._put(part)
        return digest.content

    def store(self, name: str, data: bytes, date: tuple[int, ...], *, executable: bool = False) -> Content:
        """Write a new entry, uncompressed."""
        crc = zlib.crc32(data)
        self._begin(_Header(name, date, executable, zipfile.ZIP_STORED, crc, len(data), len(data)))
        self._put(data)
        return Content(hashlib.sha256(data).digest(), len(data))

    def close(self) -> None:
        """Write the archive's central directory."""
        start = self._at
        for row in self._central:
            self._put(row)
        count = len(self._central)
        self._put(_END.pack(b"PK\5\6", 0, 0, count, count, self._at - start, start, 0))

    def _begin(self, header: _Header) -> None:
        if max(header.size, header.compressed, self._at) > _MOST_BYTES or len(self._central) >= _MOST_ENTRIES:
            raise refused("too-large", "the wheel would need zip64, which is not supported; nothing was changed")
        self._central.append(header.central(self._at))
        self._put(header.local())

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._at += len(data)


class _Header(NamedTuple):
    name: str
    date: tuple[int, ...]
    executable: bool
    method: int
    crc: int
    compressed: int
    size: int

    def _common(self) -> tuple[int, ...]:
        year, month, day, hour, minute, second = self.date
        flags = 0 if self.name.isascii() else _UTF8
        time, date = hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
        encoded = len(self.name.encode())
        return 20, flags, self.method, time, date, self.crc, self.compressed, self.size, encoded, 0

    def local(self) -> bytes:
        return _LOCAL.pack(b"PK\3\4", *self._common()) + self.name.encode()

    def central(self, offset: int) -> bytes:
        directory = self.name.endswith("/")
        mode = 0o040755 if directory else 0o100755 if self.executable else 0o100644
        attributes = mode << 16 | (0x10 if directory else 0)
        made_by = _UNIX << 8 | 20
        return _CENTRAL.pack(b"PK\1\2", made_by, *self._common(), 0, 0, 0, attributes, offset) + self.name.encode()


def damaged(path: Path, what: str) -> GaudiPatchError:
    """Return the error for a damaged wheel or sdist."""
    return refused(
        "damaged-wheel", f"{what}; nothing was written", "download it again, and compare its sha256", str(path)
    )
