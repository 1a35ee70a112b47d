"""The record of a transaction on disk: enough to undo it after a kill at any step.

Layout of the journal directory: ``journal.json``, and ``undo`` with all bytes that the changes replace, concatenated
(in one file, because each file costs an fsync). A transaction killed before its start or after its end leaves the
directory without a ``journal.json``; nothing in it matters.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.disk import FileImage
from gaudi_patch.engine import documents, strict
from gaudi_patch.engine.applied import Saved
from gaudi_patch.engine.guard import TEMPORARY, Ground
from gaudi_patch.errors import Exit, GaudiPatchError

SCHEMA = 1
FILE = "journal.json"
UNDO = "undo"
NEW = f"{FILE}.new"
#: All files that a journal's directory may hold.
FILES = (NEW, FILE, UNDO)
PHASES = ("staging", "replacing")


class Entry(NamedTuple):
    """One change. ``before`` and ``after`` are None for no file; ``undo`` locates the old bytes in the undo file."""

    path: Path
    before: Saved | None
    after: Saved | None
    temp: Path
    undo: tuple[int, int] | None
    volatile: bool


class Journal(NamedTuple):
    """The journal of one transaction. ``phase`` is "staging" while targets are untouched, then "replacing".

    ``created`` are the directories that the transaction creates, parents first; ``removed`` those that it removes
    once empty, with their modes.
    """

    verb: str
    phase: str
    entries: tuple[Entry, ...]
    created: tuple[Path, ...]
    removed: tuple[tuple[Path, int], ...]

    def to_bytes(self, anchor: Path) -> bytes:
        document = {
            "schema_version": SCHEMA,
            "verb": self.verb,
            "phase": self.phase,
            "pid": os.getpid(),
            "created": [_relative(path, anchor) for path in self.created],
            "removed": [[_relative(path, anchor), f"{mode:04o}"] for path, mode in self.removed],
            "entries": [
                {
                    "path": _relative(entry.path, anchor),
                    "before": entry.before.to_json() if entry.before else None,
                    "after": entry.after.to_json() if entry.after else None,
                    "temp": _relative(entry.temp, anchor),
                    "undo": entry.undo,
                    "volatile": entry.volatile,
                }
                for entry in self.entries
            ],
        }
        return json.dumps(document, indent=1).encode()


def damaged(file: Path, what: str, hint: str = "") -> GaudiPatchError:
    return GaudiPatchError(
        Exit.HUMAN,
        "journal-damaged",
        f"the journal of an interrupted run {what}; nothing was changed",
        hint,  # way_out
        str(file),
    )


_KIND = documents.Kind(
    "journal",
    SCHEMA,
    damaged,
    lambda file, schema, document: damaged(
        file, "was written by a newer gaudi-patch", "upgrade gaudi-patch and run it again"
    ),
)


def load(ground: Ground) -> Journal | None:
    """Read the journal of a killed transaction; return None if there is none.

    Raises ``journal-damaged`` (exit 6) if it cannot be understood or names files outside the installation; nothing in
    it is then used.
    """
    journal = documents.load(ground.home / FILE, ground, _KIND, _parsed)
    if journal is not None:
        ground.refuse_other_cache(entry.path for entry in journal.entries)
    return journal


def _parsed(document: dict[str, Any], ground: Ground) -> Journal:
    """Check each value of a journal; raise a ValueError or KeyError that names the wrong one."""
    phase = strict.text(document["phase"], "phase")
    if phase not in PHASES:
        raise ValueError(f"the phase {phase[:40]!a} is unknown")
    entries, paths, position = [], set(), 0
    for number, item in enumerate(strict.items(document["entries"], "entries")):
        entry = _entry(strict.mapping(item, f"entry {number}"), number, position, ground)
        if entry.path in paths:
            raise ValueError(f"{str(entry.path)!a} is listed twice")
        paths.add(entry.path)
        position += entry.undo[1] if entry.undo else 0
        entries.append(entry)
    removed = []
    for item in strict.items(document["removed"], "removed"):
        name, mode = strict.items(item, "a removed directory", 2)
        # Only ordinary permission bits: the set-gid bit is inherited from the parent again.
        removed.append((_directory(name, ground), strict.mode(mode, "the mode of a directory") & 0o777))
    return Journal(
        strict.text(document["verb"], "verb", 40),
        phase,
        tuple(entries),
        tuple(_directory(name, ground) for name in strict.items(document["created"], "created")),
        tuple(removed),
    )


def _entry(item: dict[str, Any], number: int, position: int, ground: Ground) -> Entry:
    what = f"entry {number}"
    path = ground.path(strict.text(item["path"], f"the path of {what}", 4095))
    temp = ground.path(strict.text(item["temp"], f"the temporary file of {what}", 4095))
    if temp.parent != path.parent or not TEMPORARY.fullmatch(temp.name):
        raise ValueError(f"the temporary file of {what} is not one of gaudi-patch")
    undo = item["undo"]
    if undo is not None:
        start, length = strict.items(undo, f"the place of {what} in the undo file", 2)
        # Contiguous, as written, so that the file's size bounds the work.
        strict.integer(start, f"the start of {what}", position, position)
        undo = (start, strict.integer(length, f"the length of {what}", 0, 2**40))
    return Entry(
        path,
        Saved.from_json(item["before"], what) if item["before"] is not None else None,
        Saved.from_json(item["after"], what) if item["after"] is not None else None,
        temp,
        undo,
        strict.boolean(item["volatile"], f"volatile of {what}"),
    )


def _directory(name: object, ground: Ground) -> Path:
    return ground.directory(strict.text(name, "a directory", 4095))


def _relative(path: Path, anchor: Path) -> str:
    # An image root may be mounted elsewhere in the next run.
    return str(path.relative_to(anchor)) if path.is_relative_to(anchor) else str(path)


def same_content(image: FileImage | None, saved: Saved | None) -> bool:
    """Return whether a path has the bytes and the kind of file that ``saved`` describes."""
    if image is None or saved is None:
        return image is None and saved is None
    return image.link == saved.link and image.sha256 == saved.sha256


def matches(image: FileImage | None, saved: Saved | None) -> bool:
    """Like :func:`same_content`, and compare the mode too, except for links, where it is the target's."""
    if not same_content(image, saved):
        return False
    return image is None or saved is None or saved.link is not None or image.mode == saved.mode
