"""A plan being carried out: every file replaced, or none.

The promise: when :func:`run` returns, every change is on disk and was read back; when it raises, every
target is as it was before; when the process is killed, :func:`recover` undoes what was done, however
often it is killed itself. The order is staged data, fsync, journal, fsync, replace, fsync of the folders,
verification, and only then the removal of the journal, which is the commit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch import bytecode, journal
from gaudi_patch.disk import Disk, Image
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.journal import Entry, Journal, matches
from gaudi_patch.state import Saved


class Change(NamedTuple):
    """One path, what it must hold now, and what it is to hold; None: nothing there.

    ``volatile`` marks bytecode: Python itself may rewrite it at any time, so that any content may be
    replaced when the change is undone.
    """

    path: Path
    before: Image | None
    after: Image | None
    volatile: bool = False


class Recovery(NamedTuple):
    """What was done about a killed run: its verb, and how many targets had to be put back."""

    verb: str
    restored: int


def run(
    home: Path,
    anchor: Path,
    verb: str,
    changes: Sequence[Change],
    disk: Disk,
    remove_directories: Sequence[Path] = (),
) -> list[str]:
    """Carry out ``changes`` as one transaction with its journal in the folder ``home``.

    Relative paths in the journal start from ``anchor``. ``remove_directories`` are removed in the end
    where they are empty. Returns warnings about litter that could not be cleared after the commit.
    Raises what the step at fault raised, after everything was undone; ``undo-failed`` (exit 4) when that
    was impossible now, with the journal kept for the next run.
    """
    record = _journal(home, verb, changes)
    try:
        _stage(home, anchor, record, changes, disk)
        record = record._replace(phase="replacing")
        _write_journal(home, anchor, record, disk)
        _replace_all(record, disk)
        _remove_empty(remove_directories, disk)
        _sync_folders(record, disk)
        _verify(changes, disk)
        disk.unlink(home / journal.FILE)
    except BaseException as error:
        _undo_after(error, home, anchor, record, disk)
        raise
    return _clear(home, disk)


def pending(home: Path, anchor: Path) -> Journal | None:
    """The journal of a killed run, to be recovered by the next run that may write."""
    return journal.load(home, anchor)


def recover(home: Path, anchor: Path, disk: Disk) -> Recovery | None:
    """Undo a killed transaction; None when there was none. Idempotent: it may be killed and run again.

    Raises ``third-state`` (exit 6) when a target was edited by somebody else in between; the others are
    put back all the same, and the journal is kept.
    """
    record = journal.load(home, anchor)
    if record is None:
        if home.is_dir():  # killed in the clean-up after its commit, or before its journal was written
            _clear(home, disk)
        return None
    return Recovery(record.verb, _undo(home, record, disk))


def _journal(home: Path, verb: str, changes: Sequence[Change]) -> Journal:
    token = f"{os.getpid():x}"
    entries = tuple(
        Entry(
            change.path,
            Saved.of(change.before) if change.before else None,
            Saved.of(change.after) if change.after else None,
            change.path.with_name(f".gaudi-patch-{token}-{number}.tmp"),
            f"undo-{number}",
            change.volatile,
        )
        for number, change in enumerate(changes)
    )
    folders: dict[Path, None] = {}
    for change in changes:
        if change.after is None:
            continue
        missing = []
        folder = change.path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        folders.update(dict.fromkeys(reversed(missing)))
    return Journal(verb, "staging", entries, tuple(folders))


def _stage(home: Path, anchor: Path, record: Journal, changes: Sequence[Change], disk: Disk) -> None:
    """Everything that needs space, before the first target is touched."""
    disk.mkdir(home)
    _write_journal(home, anchor, record, disk)
    disk.sync_directory(home.parent)
    for folder in record.directories:
        disk.mkdir(folder)
        disk.sync_directory(folder.parent)
    for entry, change in zip(record.entries, changes, strict=True):
        if change.before is not None and change.before.link is None:
            disk.write_new(home / entry.undo, Image(change.before.data, 0o600))
        if change.after is not None:
            disk.write_new(entry.temp, change.after)


def _write_journal(home: Path, anchor: Path, record: Journal, disk: Disk) -> None:
    temp = home / f"{journal.FILE}.new"
    disk.unlink(temp)
    disk.write_new(temp, Image(record.to_bytes(anchor), 0o600))
    disk.replace(temp, home / journal.FILE)
    disk.sync_directory(home)


def _replace_all(record: Journal, disk: Disk) -> None:
    for entry in record.entries:
        # Re-read right before the replacement: pip takes no lock of ours. Bytecode may change at any time.
        if not entry.volatile and not matches(disk.read(entry.path), entry.before):
            raise refused(
                "changed-meanwhile",
                "was changed by somebody else while this ran; everything was left as it was",
                "wait for the other program to end and run the same command again",
                str(entry.path),
            )
        if entry.after is None:
            disk.unlink(entry.path)
        else:
            disk.replace(entry.temp, entry.path)


def _remove_empty(folders: Sequence[Path], disk: Disk) -> None:
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            disk.rmdir(folder)


def _sync_folders(record: Journal, disk: Disk) -> None:
    for folder in sorted({entry.path.parent for entry in record.entries}):
        while not folder.exists():
            folder = folder.parent
        disk.sync_directory(folder)


def _verify(changes: Sequence[Change], disk: Disk) -> None:
    """Success is only what the disk gives back."""
    for change in changes:
        found = disk.read(change.path)
        if change.volatile:
            holds = not _same(found, change.before) or _same(change.before, change.after)
        else:
            holds = _same(found, change.after) and (
                found is None or change.after is None or found.mode == change.after.mode
            )
        if not holds:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "verify-failed",
                "does not hold what was just written to it; everything was put back",
                "look at the health of the disk, and for a program that changes this folder at the same time",
                str(change.path),
            )


def _same(one: Image | None, other: Image | None) -> bool:
    return one is None and other is None if one is None or other is None else one.same_content(other)


def _undo_after(error: BaseException, home: Path, anchor: Path, record: Journal, disk: Disk) -> None:
    try:
        if not home.is_dir():
            return  # its creation was the step that failed
        if record.phase == "replacing" and not (home / journal.FILE).exists():
            # Interrupted right after the commit: undoing needs its journal again, as it may be killed too.
            _write_journal(home, anchor, record, disk)
        _undo(home, record, disk)
    except OSError as second:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "undo-failed",
            f"{error}; and undoing it failed too: {second}. The journal is kept",
            "when the disk is well again, run any apply or rollback: it puts everything back first",
            str(home),
        ) from error


def _undo(home: Path, record: Journal, disk: Disk) -> int:
    restored, strangers = _undo_entries(home, record, disk)
    if strangers:
        names = ", ".join(f"{entry.path} (original kept as {home / entry.undo})" for entry in strangers)
        raise GaudiPatchError(
            Exit.HUMAN,
            "third-state",
            f"an interrupted {record.verb} is undone but for files that somebody edited since: {names}",
            f"put the originals back or keep your edits, then remove {home}",
            str(strangers[0].path),
        )
    disk.unlink(home / journal.FILE)
    _clear(home, disk)
    return restored


def _undo_entries(home: Path, record: Journal, disk: Disk) -> tuple[int, list[Entry]]:
    restored = 0
    strangers = []
    for entry in reversed(record.entries):
        found = disk.read(entry.path)
        if not matches(found, entry.before):
            if matches(found, entry.after) or entry.volatile:
                _put_back(home, entry, disk)
                restored += 1
            else:
                strangers.append(entry)
        if entry.before is None and entry.path.suffix == ".py":
            # Python may have cached a module that is now gone; its folder would stay importable.
            for variant in bytecode.variants(entry.path):
                disk.unlink(variant.path)
        disk.unlink(entry.temp)
    folders = [*record.directories, *(path / "__pycache__" for path in record.directories)]
    _remove_empty(folders, disk)
    _sync_folders(record, disk)
    return restored, strangers


def _put_back(home: Path, entry: Entry, disk: Disk) -> None:
    if entry.before is None:
        disk.unlink(entry.path)
        return
    saved = entry.before
    data = b""
    if saved.link is None:
        image = disk.read(home / entry.undo)
        if image is None or image.sha256 != saved.sha256:
            raise journal.damaged(home / entry.undo, "has lost the bytes of a file that must be put back")
        data = image.data
    disk.unlink(entry.temp)
    disk.write_new(entry.temp, Image(data, saved.mode, saved.mtime_ns, saved.owner, saved.link))
    disk.replace(entry.temp, entry.path)


def _clear(home: Path, disk: Disk) -> list[str]:
    """Remove the journal folder after the commit; litter is a warning, never a failure."""
    try:
        for file in sorted(home.iterdir()):
            disk.unlink(file)
        disk.rmdir(home)
        disk.sync_directory(home.parent)
    except OSError as error:
        return [f"could not remove {home}: {error.strerror}; the next run does it"]
    return []
