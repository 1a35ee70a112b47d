"""A plan being carried out: every file replaced, or none.

The promise: when :func:`run` returns, every change is on disk and was read back; when it raises, every
target is as it was before; when the process is killed, :func:`recover` undoes what was done, however
often it is killed itself. The order is staged data, fsync, journal, fsync, replace, fsync of the folders,
verification, and only then the removal of the journal, which is the commit. SIGINT, SIGTERM, SIGHUP and SIGQUIT
undo; they wait where a half-done undo or commit would be left.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import Disk, Image, sha256
from gaudi_patch.engine import bytecode, journal
from gaudi_patch.engine.applied import Saved
from gaudi_patch.engine.journal import Entry, Journal, matches, same_content
from gaudi_patch.engine.progress import Progress, Stage, uninterrupted
from gaudi_patch.errors import Exit, GaudiPatchError, refused


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
    folder_time_ns: int | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Carry out ``changes`` as one transaction with its journal in the folder ``home``.

    Relative paths in the journal start from ``anchor``. ``remove_directories`` are removed in the end
    where they are empty. Folders whose content changed get the mtime ``folder_time_ns`` (None: that of the
    change). ``progress`` is moved on with every stage. Returns warnings about what could not be cleared after the
    commit.
    Raises what the step at fault raised, after everything was undone; ``undo-failed`` (exit 4) when that
    was impossible now, with the journal kept for the next run.
    """
    progress = Progress() if progress is None else progress
    record = _journal(verb, changes, remove_directories)
    began = False
    try:
        disk.mkdir(home)
        began, progress.stage = True, Stage.UNDER_WAY
        _stage(home, anchor, record, changes, disk)
        record = record._replace(phase="replacing")
        _write_journal(home, anchor, record, disk)
        _replace_all(record, disk)
        _remove_empty([path for path, _ in record.removed], disk)
        _sync_folders(record, disk)
        _verify(changes, disk)
        with uninterrupted():
            disk.unlink(home / journal.FILE)
            disk.sync_directory(home)  # the commit is durable before the undo file goes
            progress.stage = Stage.COMMITTED
    except BaseException as error:
        if began:
            with uninterrupted():
                progress.stage = Stage.UNDO_FAILED  # until it has succeeded
                _undo_after(error, home, anchor, record, disk)
                progress.stage = Stage.UNDONE
        raise
    with uninterrupted():
        return [*_clear(home, disk), *_set_folder_times(home, record, folder_time_ns, disk)]


def recover(home: Path, anchor: Path, disk: Disk) -> Recovery | None:
    """Undo a killed transaction; None when there was none. Idempotent: it may be killed and run again.

    Raises ``third-state`` (exit 6) when a target was edited by somebody else in between; the others are
    put back all the same, and the journal is kept.
    """
    record = journal.load(home, anchor)
    with uninterrupted():
        if record is None:
            if home.is_dir():  # killed in the clean-up after its commit, or before its journal was written
                _clear(home, disk)
            return None
        return Recovery(record.verb, _undo(home, record, disk))


def _journal(verb: str, changes: Sequence[Change], remove_directories: Sequence[Path]) -> Journal:
    token = f"{os.getpid():x}"
    entries = []
    position = 0
    for number, change in enumerate(changes):
        undo = None
        if change.before is not None and change.before.link is None:
            undo = (position, len(change.before.data))
            position += len(change.before.data)
        before = Saved.of(change.before) if change.before else None
        after = Saved.of(change.after) if change.after else None
        temp = change.path.with_name(f".gaudi-patch-{token}-{number}.tmp")
        entries.append(Entry(change.path, before, after, temp, undo, change.volatile))
    removed = sorted({path for path in remove_directories if path.is_dir()})
    return Journal(
        verb,
        "staging",
        tuple(entries),
        tuple(_missing_folders(changes)),
        tuple((path, path.stat().st_mode & 0o7777) for path in removed),
    )


def _missing_folders(changes: Sequence[Change]) -> list[Path]:
    """The folders that have to be made, parents first."""
    folders: dict[Path, None] = {}
    for change in changes:
        missing = []
        folder = change.path.parent
        while change.after is not None and not folder.exists():
            missing.append(folder)
            folder = folder.parent
        folders.update(dict.fromkeys(reversed(missing)))
    return list(folders)


def _stage(home: Path, anchor: Path, record: Journal, changes: Sequence[Change], disk: Disk) -> None:
    """Everything that needs space, before the first target is touched."""
    _write_journal(home, anchor, record, disk)
    disk.sync_directory(home.parent)
    for folder in record.created:
        disk.mkdir(folder)
    replaced = [
        change.before.data
        for entry, change in zip(record.entries, changes, strict=True)
        if entry.undo is not None and change.before is not None
    ]
    disk.write_new(home / journal.UNDO, Image(b"".join(replaced), 0o600))
    for entry, change in zip(record.entries, changes, strict=True):
        if change.after is not None:
            disk.write_new(entry.temp, change.after, like=entry.path)


def _write_journal(home: Path, anchor: Path, record: Journal, disk: Disk) -> None:
    temp = home / f"{journal.FILE}.new"
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
    for folder in sorted(folders, reverse=True):  # what is below a folder comes before it
        if folder.is_dir() and not any(folder.iterdir()):
            disk.rmdir(folder)


def _touched_folders(record: Journal) -> list[Path]:
    """The folders whose entries change, those that exist, parents first."""
    folders = {entry.path.parent for entry in record.entries} | {path.parent for path, _ in record.removed}
    folders |= {path.parent for path in record.created}
    return sorted(folder for folder in folders if folder.is_dir())


def _sync_folders(record: Journal, disk: Disk) -> None:
    for folder in _touched_folders(record):
        disk.sync_directory(folder)


def _verify(changes: Sequence[Change], disk: Disk) -> None:
    """Success is only what the disk gives back."""
    for change in changes:
        found = disk.read(change.path)
        after = Saved.of(change.after) if change.after else None
        # Python may have written bytecode again; what must not be there is the old one.
        before = Saved.of(change.before) if change.before else None
        holds = not same_content(found, before) if change.volatile else matches(found, after)
        if not holds and not matches(found, after):
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "verify-failed",
                "does not hold what was just written to it; everything was put back",
                "look at the health of the disk, and for a program that changes this folder at the same time",
                str(change.path),
            )


def _undo_after(error: BaseException, home: Path, anchor: Path, record: Journal, disk: Disk) -> None:
    try:
        if record.phase == "replacing" and not (home / journal.FILE).exists():
            # Interrupted right after the commit: undoing needs its journal again, as it may be killed too.
            _write_journal(home, anchor, record, disk)
        _undo(home, record, disk)
    except OSError as second:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "undo-failed",
            f"{str(error) or type(error).__name__}; and undoing it failed too: {second}. The journal is kept",
            "when the disk is well again, run any apply or rollback: it puts everything back first",
            str(home),
        ) from error


def _undo(home: Path, record: Journal, disk: Disk) -> int:
    restored, strangers = _undo_entries(home, record, disk)
    if strangers:
        names = ", ".join(str(entry.path) for entry in strangers)
        raise GaudiPatchError(
            Exit.HUMAN,
            "third-state",
            f"an interrupted {record.verb} is undone but for files that somebody edited since: {names}",
            f"reinstall the package, or keep your edits and remove {home}",
            str(strangers[0].path),
        )
    disk.unlink(home / journal.FILE)
    disk.sync_directory(home)
    _clear(home, disk)
    return restored


def _undo_entries(home: Path, record: Journal, disk: Disk) -> tuple[int, list[Entry]]:
    restored = 0
    strangers = []
    wanted = {entry.path for entry in record.entries if entry.before is not None}
    for folder, mode in record.removed:
        if not folder.exists():
            disk.mkdir(folder, mode)
    for entry in reversed(record.entries):
        found = disk.read(entry.path) if record.phase == "replacing" else None
        if record.phase == "replacing" and not matches(found, entry.before):
            ours = same_content(found, entry.after) or same_content(found, entry.before)
            if ours or entry.volatile:
                _put_back(home, entry, disk)
                restored += 1
            elif not os.path.lexists(entry.temp):  # with its temp in place the file was never replaced by us
                strangers.append(entry)
        if entry.path.suffix == ".py":
            # Python may have cached what is now gone; the folder of a created module would stay importable.
            for variant in bytecode.variants(entry.path):
                if variant.path not in wanted:
                    disk.unlink(variant.path)
        disk.unlink(entry.temp)
    _remove_empty([*record.created, *(path / "__pycache__" for path in record.created)], disk)
    _sync_folders(record, disk)
    return restored, strangers


def _put_back(home: Path, entry: Entry, disk: Disk) -> None:
    if entry.before is None:
        disk.unlink(entry.path)
        return
    saved = entry.before
    data = b""
    if entry.undo is not None:
        start, length = entry.undo
        undo = disk.read(home / journal.UNDO)
        data = undo.data[start : start + length] if undo else b""
        if sha256(data) != saved.sha256:
            raise journal.damaged(home / journal.UNDO, f"has lost the bytes of {entry.path}, which must be put back")
    disk.unlink(entry.temp)
    image = Image(data, saved.mode, saved.mtime_ns, saved.owner, saved.link)
    disk.write_new(entry.temp, image, like=entry.path)
    disk.replace(entry.temp, entry.path)


def _clear(home: Path, disk: Disk) -> list[str]:
    """Remove the journal folder after the commit; litter is a warning, never a failure."""
    try:
        for file in sorted(home.iterdir()):
            disk.unlink(file)
        disk.rmdir(home)
    except OSError as error:
        return [f"could not remove {home}: {error.strerror}; the next run does it"]
    return []


def _set_folder_times(home: Path, record: Journal, time_ns: int | None, disk: Disk) -> list[str]:
    """For reproducible layers: a folder's mtime is as much a part of a layer as a file's."""
    if time_ns is None:
        return []
    try:
        for folder in sorted({*_touched_folders(record), *record.created, home.parent}):
            disk.set_time(folder, time_ns)
    except OSError as error:
        return [f"could not set the time of {error.filename}: {error.strerror}"]
    return []
