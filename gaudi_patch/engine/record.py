"""RECORD rows: the wheel's list of installed files, changed row by row and otherwise kept to the byte.

pip writes CRLF and uv LF, pip sorts and lists bytecode, uv does not: whatever is found is kept
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """Digest and size of a listed file; both empty for bytecode, as pip lists it."""

    digest: str = ""
    size: str = ""

    @classmethod
    def of(cls, data: bytes) -> Entry:
        encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
        return cls(f"sha256={encoded}", str(len(data)))


def entries(data: bytes) -> dict[str, Entry]:
    """All rows by path. Rows that are no rows (wrong number of fields) are left out."""
    found = {}
    for line in _lines(data):
        row = _parse(line)
        if row is not None:
            found[row[0]] = Entry(row[1], row[2])
    return found


def updated(data: bytes, changes: Mapping[str, Entry | None]) -> bytes:
    """Return RECORD with the rows of ``changes`` set (Entry) or removed (None); every other byte stays.

    New rows go to the end, in sorted order. An unreadable row is kept as it is.
    """
    terminator = b"\r\n" if b"\r\n" in data else b"\n"
    out: list[bytes] = []
    seen: set[str] = set()
    names = {path.encode("utf-8", "surrogateescape") for path in changes}
    for line in _lines(data):
        # Most rows are of other files; parsing each takes 3 s for a million of them.
        if not line.startswith(b'"') and line.partition(b",")[0] not in names:
            out.append(line)
            continue
        row = _parse(line)
        if row is None or row[0] not in changes:
            out.append(line)
            continue
        seen.add(row[0])
        entry = changes[row[0]]
        if entry is not None:
            end = line[len(line.rstrip(b"\r\n")) :]
            out.append(_row(row[0], entry) + end)
    new = sorted(path for path, entry in changes.items() if entry is not None and path not in seen)
    if new and out and not out[-1].endswith(b"\n"):
        out[-1] += terminator
    for path in new:
        entry = changes[path]
        assert entry is not None
        out.append(_row(path, entry) + terminator)
    return b"".join(out)


def _lines(data: bytes) -> list[bytes]:
    return list(io.BytesIO(data))  # splits on \n alone: a name may hold any other byte


_QUOTED_OR_ODD = re.compile(r'["\r\n\0]')


def _parse(line: bytes) -> list[str] | None:
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if len(text) < csv.field_size_limit() and not _QUOTED_OR_ODD.search(text):  # what csv would do, three times faster
        fields = text.split(",")
        return fields if len(fields) == 3 else None
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 and len(rows[0]) == 3 else None


def _row(path: str, entry: Entry) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([path, entry.digest, entry.size])
    return stream.getvalue().encode("utf-8", "surrogateescape")
