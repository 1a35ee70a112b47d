"""The record of a transaction on disk: enough to undo it after a kill, at any step.

Layout of the journal folder: ``journal.json``, and ``undo`` with all bytes that the changes replace, one
after the other (one file, since each costs an fsync). The folder without a ``journal.json`` is what a
transaction leaves when it is killed before its start or after its end; it holds nothing that matters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.disk import Image, read_image
from gaudi_patch.engine.applied import Saved
from gaudi_patch.errors import Exit, GaudiPatchError

SCHEMA = 1
FILE = "journal.json"
UNDO = "undo"


class Entry(NamedTuple):
    """One change. ``before`` and ``after`` are None where there is no file; ``undo`` is where the undo file has it."""

    path: Path
    before: Saved | None
    after: Saved | None
    temp: Path
    undo: tuple[int, int] | None
    volatile: bool


class Journal(NamedTuple):
    """``phase`` is "staging" while targets are untouched, "replacing" from then on.

    ``created`` are the folders that the transaction makes, parents first; ``removed`` those that it takes away
    once they are empty, with their modes.
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


def load(home: Path, anchor: Path) -> Journal | None:
    """Read the journal of a killed transaction below ``home``, None when there is none.

    ``anchor`` is the folder that its relative paths start from. Raises ``journal-damaged`` (exit 6).
    """
    image = read_image(home / FILE)
    if image is None:
        return None
    try:
        document = json.loads(image.data)
        if document["schema_version"] > SCHEMA:
            raise damaged(home / FILE, "was written by a newer gaudi-patch", "upgrade gaudi-patch and run it again")
        return Journal(
            document["verb"],
            document["phase"],
            tuple(_entry(item, anchor) for item in document["entries"]),
            tuple(anchor / path for path in document["created"]),
            tuple((anchor / path, int(mode, 8)) for path, mode in document["removed"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(home / FILE, f"cannot be understood ({type(error).__name__}: {error})") from error


def damaged(file: Path, what: str, hint: str = "") -> GaudiPatchError:
    return GaudiPatchError(
        Exit.HUMAN,
        "journal-damaged",
        f"the journal of an interrupted run {what}; nothing was changed",
        hint
        or "reinstall the package (pip install --force-reinstall --no-deps lmcache==VERSION), then remove this folder",
        str(file),
    )


def _entry(item: Mapping[str, Any], anchor: Path) -> Entry:
    return Entry(
        anchor / item["path"],
        Saved.from_json(item["before"]) if item["before"] else None,
        Saved.from_json(item["after"]) if item["after"] else None,
        anchor / item["temp"],
        (int(item["undo"][0]), int(item["undo"][1])) if item["undo"] else None,
        item["volatile"],
    )


def _relative(path: Path, anchor: Path) -> str:
    # Why: an image root may be mounted elsewhere for the next run.
    return str(path.relative_to(anchor)) if path.is_relative_to(anchor) else str(path)


def same_content(image: Image | None, saved: Saved | None) -> bool:
    """Whether a path holds what ``saved`` describes, in bytes and in kind of file."""
    if image is None or saved is None:
        return image is None and saved is None
    return image.link == saved.link and image.sha256 == saved.sha256


def matches(image: Image | None, saved: Saved | None) -> bool:
    """The same, and in mode (of a link the mode is its target's, and not ours)."""
    if not same_content(image, saved):
        return False
    return image is None or saved is None or saved.link is not None or image.mode == saved.mode
