"""METADATA and WHEEL of a patched wheel: a new version, a note about the build, and fewer requirements on request.

Every other byte stays. Only --drop-cuda drops requirements, and each dropped requirement is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gaudi_patch.target.requirements import DEVICE, is_cuda

#: An index that honours this classifier, as PyPI does, refuses an accidental upload.
PRIVATE = "Private :: Do Not Upload"
_NAME = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Edited(NamedTuple):
    """An edited METADATA file, and the requirements dropped from it."""

    data: bytes
    dropped: tuple[str, ...]


def edited(data: bytes, *, old: str, new: str, note: str, drop_cuda: bool) -> Edited:
    """Return METADATA with the version ``new``, ``note`` before the description, and a classifier against uploads.

    drop_cuda: drop CUDA's packages, which are useless on a Gaudi, and PyTorch, which the image provides.
    Raises ValueError if ``data`` is not the metadata of the release ``old``.
    """
    end = b"\r\n" if b"\r\n" in data.partition(b"\n")[0] + b"\n" else b"\n"
    head, body = _halves(data, end)
    fields = list(_fields(head, end))
    versions = [field for field in fields if _is(field, b"version")]
    if [_value(field) for field in versions] != [old.encode()]:
        raise ValueError(f"its METADATA is not for version {old}")
    out, dropped = [], []
    for field in fields:
        value = _value(field)
        if _is(field, b"version"):
            out.append(field.replace(old.encode(), new.encode(), 1))
        elif drop_cuda and _is(field, b"requires-dist") and _is_left_out(value):
            dropped.append(value.decode("utf-8", "replace"))
        elif not (_is(field, b"classifier") and value == PRIVATE.encode()):
            out.append(field)
    classifiers = [number for number, field in enumerate(out) if _is(field, b"classifier")]
    after = (classifiers or [number for number, field in enumerate(out) if _is(field, b"version")])[-1] + 1
    out.insert(after, b"Classifier: " + PRIVATE.encode() + end)
    text = note.encode().replace(b"\n", end)
    return Edited(b"".join(out) + end + text + end + (end + body if body else b""), tuple(dropped))


def wheel_file(data: bytes, generator: str) -> bytes:
    """Return WHEEL with the given generator; the tags stay."""
    end = b"\r\n" if b"\r\n" in data else b"\n"
    line = b"Generator: " + generator.encode() + end
    fields = list(_fields(data, end))
    if not any(_is(field, b"generator") for field in fields):
        fields.insert(1, line)
    return b"".join(line if _is(field, b"generator") else field for field in fields)


def tags(data: bytes) -> list[str]:
    """Return the tags of a WHEEL file."""
    end = b"\r\n" if b"\r\n" in data else b"\n"
    return [_value(field).decode("ascii", "replace") for field in _fields(data, end) if _is(field, b"tag")]


def _halves(data: bytes, end: bytes) -> tuple[bytes, bytes]:
    head, _, body = data.partition(end + end)
    return (head if head.endswith(end) else head + end), body.lstrip(b"\r\n")


def _fields(head: bytes, end: bytes) -> Iterator[bytes]:
    """Yield each header with its continuation lines."""
    pending = b""
    for line in head.splitlines(keepends=True):
        if line[:1] in (b" ", b"\t") and pending:
            pending += line
            continue
        if pending:
            yield pending
        pending = line
    if pending:
        yield pending if pending.endswith(end) else pending + end


def _is(field: bytes, name: bytes) -> bool:
    return field.partition(b":")[0].strip().lower() == name


def _value(field: bytes) -> bytes:
    return field.partition(b":")[2].strip()


def _is_left_out(requirement: bytes) -> bool:
    match = _NAME.match(requirement)
    name = re.sub(r"[-_.]+", "-", match[0].decode()).lower() if match else ""
    return name in DEVICE or is_cuda(name)
