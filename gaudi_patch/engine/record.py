"""RECORD, the wheel's list of installed files: changed row by row, otherwise preserved byte for byte.

pip writes CRLF and uv LF; pip sorts and lists bytecode, uv does not. The existing form is kept
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

#: How much of a RECORD is parsed at once, in bytes.
_BLOCK = 1 << 16
_ODD = re.compile(rb'["\r\0]')


class Entry(NamedTuple):
    """Digest and size of a listed file; both empty for bytecode, as pip lists it."""

    digest: str = ""
    size: str = ""

    @classmethod
    def of(cls, data: bytes) -> Entry:
        encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
        return cls(f"sha256={encoded}", str(len(data)))


class Row(NamedTuple):
    """One row: its start and end in the file, path, digest and size."""

    start: int
    end: int
    path: str
    entry: Entry


def rows(data: bytes, wanted: Callable[[bytes], bool]) -> Iterator[Row]:
    """Yield the rows whose path is ``wanted``; skip lines that are not rows.

    A RECORD may have millions of rows: only the wanted ones are parsed.
    """
    start = 0
    while start < len(data):
        stop = data.rfind(b"\n", start, start + _BLOCK) + 1 or data.find(b"\n", start) + 1 or len(data)
        end = start
        for line in data[start:stop].split(b"\n"):  # split at \n only: a name may contain any other byte
            begin, end = end, end + len(line) + 1
            if line[:1] == b'"' or wanted(line[: line.find(b",")]):
                fields = _parse(line)
                if fields is not None and wanted(fields[0].encode("utf-8", "surrogateescape")):
                    yield Row(begin, min(end, stop), fields[0], Entry(fields[1], fields[2]))
        start = stop


def selected(data: bytes, wanted: Callable[[bytes], bool]) -> dict[str, Entry]:
    """Return the rows whose path is ``wanted``, by path."""
    return {row.path: row.entry for row in rows(data, wanted)}


def same(data: bytes, other: bytes, without: Callable[[bytes], bool]) -> bool:
    """Return whether both have the same bytes, apart from the rows of ``without`` and the end of the last line."""
    return _digest_of_rest(data, without) == _digest_of_rest(other, without)


def _digest_of_rest(data: bytes, without: Callable[[bytes], bool]) -> bytes:
    digest = hashlib.sha256()
    kept, pending = 0, b""
    for start, end in [*((row.start, row.end) for row in rows(data, without)), (len(data), len(data))]:
        piece = data[kept:start]
        body = piece.rstrip(b"\r\n")
        if body:
            digest.update(pending)
            digest.update(body)
            pending = b""
        pending += piece[len(body) :]
        kept = end
    return digest.digest()


def updated(data: bytes, changes: Mapping[str, Entry | None]) -> bytes:
    """Return RECORD with the rows of ``changes`` set (Entry) or removed (None); every other byte stays.

    New rows are appended in sorted order. An unreadable row is kept unchanged.
    """
    terminator = b"\r\n" if b"\r\n" in data else b"\n"
    out: list[bytes] = []
    seen: set[str] = set()
    kept = 0
    keys = {path.encode("utf-8", "surrogateescape") for path in changes}
    for row in rows(data, keys.__contains__):
        out.append(data[kept : row.start])
        kept = row.end
        seen.add(row.path)
        entry = changes[row.path]
        if entry is not None:
            line = data[row.start : row.end]
            out.append(_row(row.path, entry) + line[len(line.rstrip(b"\r\n")) :])
    out.append(data[kept:])
    new = sorted(path for path, entry in changes.items() if entry is not None and path not in seen)
    last = next((part for part in reversed(out) if part), b"\n")
    if new and not last.endswith(b"\n"):
        out.append(terminator)
    for path in new:
        entry = changes[path]
        assert entry is not None
        out.append(_row(path, entry) + terminator)
    return b"".join(out)


def _parse(line: bytes) -> list[str] | None:
    line = line.rstrip(b"\r\n")
    text = line.decode("utf-8", "surrogateescape")
    if len(line) < csv.field_size_limit() and not _ODD.search(line):  # almost every row; csv is six times slower
        fields = text.split(",")
        return fields if len(fields) == 3 else None
    try:
        parsed = list(csv.reader([text], strict=True))
    except csv.Error:
        return None
    return parsed[0] if len(parsed) == 1 and len(parsed[0]) == 3 else None


def _row(path: str, entry: Entry) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([path, entry.digest, entry.size])
    return stream.getvalue().encode("utf-8", "surrogateescape")
