"""Carry out a plan: replace every file, or none.

The promise: when :func:`run` returns, every change is on disk and was read back. When it raises, every target is
unchanged. When the process is killed, :func:`recover` undoes what was done, however often it is killed itself. The
order is staged data, fsync, journal, fsync, replace, fsync of the directories, verification, and only then the
removal of the journal, which is the commit. SIGINT, SIGTERM, SIGHUP and SIGQUIT undo the transaction; they are
deferred during an undo or a commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.engine import journal, undo
from gaudi_patch.engine.applied import Saved
from gaudi_patch.engine.guard import Ground, modest, refuse_mounts
from gaudi_patch.engine.journal import Entry, Journal, matches, same_content
from gaudi_patch.engine.progress import Progress, Stage, uninterrupted
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.opening import is_directory, is_there, look_at


class Change(NamedTuple):
    """One path, its required current content, and its new content; None: no file.

    ``volatile`` marks bytecode, which Python itself may rewrite at any time; undoing the change then replaces any
    content.
    """

    path: Path
    before: FileImage | None
    after: FileImage | None
    volatile: bool = False


class Recovery(NamedTuple):
    """How a killed run was undone: its command, the number of targets restored, what is left of its journal."""

    verb: str
    restored: int
    warnings: tuple[str, ...] = ()


def run(
    ground: Ground,
    verb: str,
    changes: Sequence[Change],
    disk: Disk,
    remove_directories: Sequence[Path] = (),
    folder_time_ns: int | None = None,
    progress: Progress | None = None,
    verify: Callable[[], object] | None = None,
) -> list[str]:
    """Carry out ``changes`` as one transaction, every path confined to ``ground``.

    ``remove_directories`` are removed at the end if empty. Directories whose content changed get the mtime
    ``folder_time_ns`` in ns (None: the time of the change). ``progress`` is updated at every stage. ``verify`` checks
    the new files before the commit, and raises if they are wrong. Returns warnings about what could not be cleaned up
    after the commit; the changes are then complete. Raises the failed step's error after undoing everything. If the
    undo did not finish, raises ``undo-failed`` (exit 6) with each file named, and keeps the journal for the next run.
    """
    with disk.within(ground.bounds):
        changes = _modest(changes, ground)
        preflight(ground, changes, remove_directories)
        record = _journal(verb, changes, remove_directories)
        progress = Progress() if progress is None else progress
        return _run(ground, record, changes, disk, progress, folder_time_ns, verify)


def _run(
    ground: Ground,
    record: Journal,
    changes: Sequence[Change],
    disk: Disk,
    progress: Progress,
    folder_time_ns: int | None,
    verify: Callable[[], object] | None,
) -> list[str]:
    home = ground.home
    began = committed = False
    warnings = []
    try:
        with uninterrupted():  # otherwise a signal could arrive between creating the directory and recording it
            _make_home(home, disk)
            began, progress.stage = True, Stage.UNDER_WAY
        _stage(ground, record, changes, disk)
        record = record._replace(phase="replacing")
        _write_journal(ground, record, disk)
        _replace_all(record, disk)
        undo.remove_empty([path for path, _ in record.removed], disk)
        for folder in undo.touched_directories(record):
            disk.sync_directory(folder)
        _verify(changes, disk)
        if verify is not None:
            verify()
        with uninterrupted():
            disk.unlink(home / journal.FILE)
            committed, progress.stage = True, Stage.COMMITTED
            disk.sync_directory(home)  # the commit must be durable before the undo file is removed
    except BaseException as error:
        if committed and isinstance(error, OSError):
            warnings.append(
                f"the end of this run may not be durable ({error.strerror}): check again after a power failure"
            )
        else:
            if began:
                with uninterrupted():
                    _undo_after(error, ground, record, disk, progress, committed=committed)
            raise
    with uninterrupted():
        return [*warnings, *undo.clear(home, disk), *_set_directory_times(home, record, folder_time_ns, disk)]


def recover(ground: Ground, disk: Disk) -> Recovery | None:
    """Undo a killed transaction; return None if there was none. Idempotent: it may be killed and run again.

    Raises ``third-state`` (exit 6) if another program edited a target in between, ``undo-failed`` (exit 6) if some
    targets could not be restored. All others are restored, and the journal is kept.
    """
    with disk.within(ground.bounds):
        record = journal.load(ground)
        with uninterrupted():
            if record is None:
                # Killed during the clean-up after its commit, or before its journal was written.
                if is_directory(ground.home):
                    undo.clear(ground.home, disk)
                return None
            done = undo.undo(ground, record, disk, trusted=False)
            if not done.complete:
                raise undo.unfinished(done, ground, record)
            return Recovery(record.verb, done.restored, tuple(done.warnings))


def preflight(ground: Ground, changes: Iterable[Change], remove_directories: Iterable[Path] = ()) -> None:
    """Refuse, before anything is written, what could not be carried out or would leave the ground.

    Raises ``outside-package`` and ``link-in-the-way`` (exit 1), ``mounted-file`` (exit 4).
    """
    paths = [change.path for change in changes]
    removed = [path for path in remove_directories if is_directory(path)]
    for path in paths:
        ground.bounds.look(path)
    for path in removed:
        ground.bounds.look(path, directory=True)
    refuse_mounts([*paths, *removed])
    if is_there(ground.home) and not is_directory(ground.home):
        raise _in_the_way(ground.home)


def _modest(changes: Sequence[Change], ground: Ground) -> list[Change]:
    """Give each file the attributes of the file that it replaces, and no more rights.

    A backup may have the owner of any file on disk, because its original may be among them.
    """
    standing = ground.standing()
    owners = {change.before.owner for change in changes if change.before is not None and change.before.owner}
    modest_changes = []
    for change in changes:
        before, after = change.before, change.after
        if after is not None:
            if before is not None and before.link is None:
                after = after._replace(attributes=before.attributes)
            others = owners if change.path.is_relative_to(ground.state_dir) else ()
            after = modest(after, before, standing, others)
        modest_changes.append(change._replace(after=after))
    return modest_changes


def _make_home(home: Path, disk: Disk) -> None:
    try:
        disk.mkdir(home)
    except FileExistsError as error:
        if not is_directory(home, follow=False) or not set(disk.names(home)) <= set(journal.FILES):
            raise _in_the_way(home) from error
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "journal-in-the-way",
            "is left over from an earlier run's journal, and could not be removed; nothing was changed",
            "run the same command again",
            str(home),
        ) from error


def _in_the_way(home: Path) -> GaudiPatchError:
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "journal-in-the-way",
        "is in the way of this run's journal, and does not belong to gaudi-patch; nothing was changed",
        "find out what it is, move it, and run the same command again",
        str(home),
    )


def _journal(verb: str, changes: Sequence[Change], remove_directories: Sequence[Path]) -> Journal:
    token = f"{os.getpid():x}"
    entries = []
    position = 0
    for number, change in enumerate(changes):
        undo = None
        if change.before is not None:
            undo = (position, len(change.before.data))
            position += len(change.before.data)
        before = Saved.of(change.before) if change.before else None
        after = Saved.of(change.after) if change.after else None
        temp = change.path.with_name(f".gaudi-patch-{token}-{number}.tmp")
        entries.append(Entry(change.path, before, after, temp, undo, change.volatile))
    removed = sorted({path for path in remove_directories if is_directory(path, follow=False)})
    return Journal(
        verb,
        "staging",
        tuple(entries),
        tuple(_missing_folders(changes)),
        tuple((path, path.stat().st_mode & 0o7777) for path in removed),
    )


def _missing_folders(changes: Sequence[Change]) -> list[Path]:
    """Return the directories to create, parents first."""
    folders: dict[Path, None] = {}
    for change in changes:
        missing = []
        folder = change.path.parent
        while change.after is not None and look_at(folder, follow=True) is None:
            missing.append(folder)
            folder = folder.parent
        folders.update(dict.fromkeys(reversed(missing)))
    return list(folders)


def _stage(ground: Ground, record: Journal, changes: Sequence[Change], disk: Disk) -> None:
    """Write everything that needs space, before the first target is changed."""
    _write_journal(ground, record, disk)
    disk.sync_directory(ground.home.parent)
    for folder in record.created:
        disk.mkdir(folder)
    replaced = [change.before for change in changes if change.before is not None]
    standing = ground.standing()
    # The package's owner must not gain access here to what only another user may read.
    private = any(not file.mode & 0o004 and file.owner != (standing.st_uid, standing.st_gid) for file in replaced)
    undo_file = FileImage(b"", 0o600, owner=(os.geteuid(), os.getegid()) if private else None)
    disk.write_new(ground.home / journal.UNDO, undo_file, parts=[file.data for file in replaced])
    for entry, change in zip(record.entries, changes, strict=True):
        if change.after is not None:
            disk.write_new(entry.temp, change.after, like=entry.path)


def _write_journal(ground: Ground, record: Journal, disk: Disk) -> None:
    temp = ground.home / journal.NEW
    disk.write_new(temp, FileImage(record.to_bytes(ground.root), 0o600))
    disk.replace(temp, ground.home / journal.FILE)
    disk.sync_directory(ground.home)


def _replace_all(record: Journal, disk: Disk) -> None:
    for entry in record.entries:
        # Re-read right before the replacement, because pip does not take this lock. Bytecode may change at any time.
        if not entry.volatile and not matches(disk.read(entry.path), entry.before):
            raise refused(
                "changed-meanwhile",
                "was changed by another program during this run; nothing was changed",
                "wait for the other program to finish and run the same command again",
                str(entry.path),
            )
        if entry.after is None:
            disk.unlink(entry.path)
        else:
            disk.replace(entry.temp, entry.path)


def _verify(changes: Sequence[Change], disk: Disk) -> None:
    """Compare what the disk returns with what was written."""
    for change in changes:
        current = disk.read(change.path)
        after = Saved.of(change.after) if change.after else None
        # Python may have rewritten the bytecode; only the old bytecode must be gone.
        before = Saved.of(change.before) if change.before else None
        holds = not same_content(current, before) if change.volatile else matches(current, after)
        if not holds and not matches(current, after):
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "verify-failed",
                "read-back failed: the file differs from what was just written; all changes were undone",
                "check the disk, and look for a program that changes this directory at the same time",
                str(change.path),
            )


def _undo_after(
    error: BaseException, ground: Ground, record: Journal, disk: Disk, progress: Progress, *, committed: bool
) -> None:
    """Roll everything back; raise ``undo-failed`` if that did not finish."""
    if committed:
        # Interrupted right after the commit: the undo needs its journal again, because it may be killed too.
        try:
            _write_journal(ground, record, disk)
        except OSError:
            return  # all changes are complete; without a journal they must not be undone
    progress.stage = Stage.UNDO_FAILED  # until it has succeeded
    done = undo.undo(ground, record, disk, trusted=True)
    if not done.complete:
        raise undo.unfinished(done, ground, record, error) from error
    progress.stage = Stage.UNDONE
    progress.warnings += done.warnings


def _set_directory_times(home: Path, record: Journal, time_ns: int | None, disk: Disk) -> list[str]:
    """Set directory mtimes, which are part of a reproducible layer like those of files."""
    if time_ns is None:
        return []
    try:
        for folder in sorted({*undo.touched_directories(record), *record.created, home.parent}):
            disk.set_time(folder, time_ns)
    except (OSError, GaudiPatchError) as error:
        return [f"could not set the time of a directory: {error}"]
    return []
