"""Undo a transaction: restore each target's bytes, continuing after every error that allows it.

An undo that cannot finish keeps its journal and names each file that it could not restore; the next run continues
from there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import Disk, FileImage, sha256
from gaudi_patch.engine import bytecode, journal
from gaudi_patch.engine.applied import sound_link
from gaudi_patch.engine.guard import Ground, modest
from gaudi_patch.engine.journal import Entry, Journal, matches, same_content
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.opening import is_directory, is_there
from gaudi_patch.target.invocation import command_line

Fault = OSError | GaudiPatchError


class Undone(NamedTuple):
    """The result of an undo: ``failed`` targets could not be restored, ``strangers`` were edited since and left
    alone, ``litter`` is everything else that could not be restored. ``warnings`` are about what is left of the
    journal after a complete undo.
    """

    restored: int
    strangers: list[Path]
    failed: list[tuple[Path, Fault]]
    litter: list[tuple[Path, Fault]]
    warnings: list[str]

    @property
    def complete(self) -> bool:
        """Return whether everything was restored."""
        return not (self.strangers or self.failed or self.litter)


def undo(ground: Ground, record: Journal, disk: Disk, *, trusted: bool) -> Undone:
    """Restore every target of ``record``; remove the journal once that is complete.

    ``trusted`` means that the record is this process's own and was not read from the target.
    """
    done = Undone(0, [], [], [], [])
    for path, mode in record.removed:
        _attempt(path, done.failed, lambda path=path, mode=mode: _make_again(path, mode, disk))  # type: ignore[misc]
    restored = 0
    wanted = {entry.path for entry in record.entries if entry.before is not None}
    replaced = _Replaced(ground, disk)
    for entry in reversed(record.entries):
        if record.phase == "replacing":

            def put_back(entry: Entry = entry) -> None:
                nonlocal restored
                restored += _undo_entry(entry, ground, replaced, disk, done.strangers, trusted=trusted)

            _attempt(entry.path, done.failed, put_back)
        if entry.path.suffix == ".py":
            # Python may have cached modules that are now removed; the directory of a created module would stay
            # importable.
            for path in _cached(entry.path, ground, done):
                if path not in wanted:
                    _attempt(path, done.litter, lambda path=path: disk.unlink(path))  # type: ignore[misc]
        _attempt(entry.temp, done.litter, lambda path=entry.temp: _unlink(path, disk))  # type: ignore[misc]
    made = [*record.created, *(path / "__pycache__" for path in record.created)]
    for path in sorted(made, reverse=True):
        _attempt(path, done.litter, lambda path=path: remove_empty([path], disk))  # type: ignore[misc]
    for path in _parents(record):
        _attempt(path, done.litter, lambda path=path: _sync(path, disk))  # type: ignore[misc]
    done = done._replace(restored=restored)
    if done.complete:
        _attempt(ground.home / journal.FILE, done.litter, lambda: _end(ground.home, disk))
    if done.complete:
        done.warnings.extend(clear(ground.home, disk))
    return done


def _attempt(path: Path, faults: list[tuple[Path, Fault]], work: Callable[[], object]) -> None:
    try:
        work()
    except (OSError, GaudiPatchError) as error:
        faults.append((path, error))


def _unlink(path: Path, disk: Disk) -> None:
    if is_there(path):
        disk.unlink(path)


def _make_again(path: Path, mode: int, disk: Disk) -> None:
    if not is_directory(path):
        disk.mkdir(path, mode)


def _sync(path: Path, disk: Disk) -> None:
    if is_directory(path):
        disk.sync_directory(path)


def _why(fault: Fault) -> str:
    return fault.message if isinstance(fault, GaudiPatchError) else fault.strerror or str(fault)


def _cached(source: Path, ground: Ground, done: Undone) -> list[Path]:
    """Return the cached bytecode of ``source``; report an unreadable directory and continue."""
    try:
        prefix = str(ground.prefix) if ground.prefix is not None else None
        return [variant.path for variant in bytecode.variants(source, prefix, ground.bounds)]
    except (OSError, GaudiPatchError) as error:
        done.litter.append((source.parent / "__pycache__", error))
        return []


def _end(home: Path, disk: Disk) -> None:
    disk.unlink(home / journal.FILE)
    disk.sync_directory(home)


def _undo_entry(
    entry: Entry, ground: Ground, replaced: _Replaced, disk: Disk, strangers: list[Path], *, trusted: bool
) -> int:
    """Restore one target; return 1 if it needed restoring, else 0."""
    current = disk.read(entry.path)
    if matches(current, entry.before):
        return 0
    ours = same_content(current, entry.after) or same_content(current, entry.before)
    if ours or entry.volatile:
        _put_back(entry, current, ground, replaced, disk, trusted=trusted)
        return 1
    if not is_there(entry.temp):  # while its temporary file exists, the target was never replaced
        strangers.append(entry.path)
    return 0


def _put_back(
    entry: Entry, current: FileImage | None, ground: Ground, replaced: _Replaced, disk: Disk, *, trusted: bool
) -> None:
    saved = entry.before
    if saved is None:
        disk.unlink(entry.path)
        return
    link = sound_link(ground, saved, entry.path)
    data = b""
    if link is None:
        data = replaced.at(*entry.undo) if entry.undo is not None else b""
        if entry.undo is None or sha256(data) != saved.sha256:
            file, what = ground.home / journal.UNDO, f"the journal no longer has the bytes of {entry.path}"
            raise GaudiPatchError(Exit.HUMAN, "journal-damaged", what, file=str(file))
    image = FileImage(data, saved.mode, saved.mtime_ns, saved.owner, link, saved.attributes)
    _unlink(entry.temp, disk)
    disk.write_new(entry.temp, image if trusted else modest(image, current, ground.standing()), like=entry.path)
    disk.replace(entry.temp, entry.path)


class _Replaced:
    """The undo file, read when first needed."""

    def __init__(self, ground: Ground, disk: Disk) -> None:
        self._file, self._disk = ground.home / journal.UNDO, disk
        self._data: bytes | None = None

    def at(self, start: int, length: int) -> bytes:
        if self._data is None:
            image = self._disk.read(self._file)
            self._data = image.data if image else b""
        return self._data[start : start + length]


def touched_directories(record: Journal) -> list[Path]:
    """Return the existing directories whose entries change, parents first."""
    return [folder for folder in _parents(record) if is_directory(folder)]


def _parents(record: Journal) -> list[Path]:
    folders = {entry.path.parent for entry in record.entries} | {path.parent for path, _ in record.removed}
    return sorted(folders | {path.parent for path in record.created})


def remove_empty(folders: Iterable[Path], disk: Disk) -> None:
    """Remove the empty ones of ``folders``, deepest first."""
    for folder in sorted(folders, reverse=True):
        if is_directory(folder, follow=False) and not disk.names(folder):
            try:
                disk.rmdir(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # Python cached something meanwhile
                    raise


def clear(home: Path, disk: Disk) -> list[str]:
    """Remove the journal's directory after the commit; litter is a warning, never a failure."""
    try:
        for name in disk.names(home):
            if name in journal.FILES:
                disk.unlink(home / name)
        disk.rmdir(home)
    except OSError as error:
        return [f"could not remove {home}: {error.strerror}; the next run does it"]
    except GaudiPatchError as error:
        return [f"could not remove {home}: {error.message}"]
    return []


def journal_is_kept(ground: Ground) -> bool:
    """Return whether the journal exists for the next run; if this cannot be determined, assume so."""
    try:
        os.lstat(ground.home / journal.FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # only the end of an undo removes it
    return True


def unfinished(done: Undone, ground: Ground, record: Journal, error: BaseException | None = None) -> GaudiPatchError:
    """Return the error for an unfinished undo: why, which files, and what can finish it."""
    kept = journal_is_kept(ground)
    if done.strangers and not (done.failed or done.litter):
        names = ", ".join(map(str, done.strangers))
        return GaudiPatchError(
            Exit.HUMAN,
            "third-state",
            f"an interrupted {record.verb} is undone except for files edited since: {names}",
            file=str(done.strangers[0]),  # its hint: way_out
        )
    cause = f"{str(error) or type(error).__name__}; and " if error is not None else ""
    what = "undoing it" if error is not None else f"undoing an interrupted {record.verb}"
    details = [f"not restored: {path}: {_why(fault)}" for path, fault in done.failed]
    details += [f"edited since: {path}" for path in done.strangers]
    details += [f"left behind: {path}: {_why(fault)}" for path, fault in done.litter]
    state = "every target was restored, but other files were left behind"
    if done.failed:
        count = len(done.failed) + len(done.strangers)
        state = f"{count} file{'s' if count != 1 else ''} could not be restored; all others were"
    path, first = [*done.failed, *done.litter][0]
    lost = isinstance(first, GaudiPatchError) and first.code == "journal-damaged"
    kept_text = f"the journal is kept in {ground.home}" if kept else "no journal could be kept"
    again = [command_line(verb, target=ground.target, manifest=ground.manifest) for verb in ("rollback", "apply")]
    hint = f"once the disk problem is fixed, run `{again[0]}` or `{again[1]}`; either one first finishes the undo"
    return GaudiPatchError(
        Exit.HUMAN,
        "journal-damaged" if lost else "undo-failed",
        f"{cause}{what} did not finish: {state} ({_why(first)}); {kept_text}",
        "" if lost or (done.failed and not kept) else hint,  # "": way_out
        first.file if lost and isinstance(first, GaudiPatchError) else str(path),
        details=details,
    )
