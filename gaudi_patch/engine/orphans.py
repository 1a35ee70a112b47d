"""Clean up after a killed run on an installation that no longer exists.

pip and uv remove what RECORD lists. A run killed before it changed RECORD leaves unlisted files: its journal (and so
the dist-info of a removed release), files that the series created, temporary files. The run cannot be undone, because
the files it changed no longer exist. So these files are removed as the journal lists them: temporary files by name,
and files with exactly the bytes that the run wrote. Files in the current release's RECORD are never touched.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import Disk, FileImage, environment_error, read_image
from gaudi_patch.engine import bytecode, journal, record, undo
from gaudi_patch.engine.applied import Saved
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.journal import Entry, Journal, same_content
from gaudi_patch.engine.locking import directory_lock
from gaudi_patch.engine.progress import uninterrupted
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.opening import is_directory, is_there
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.site_folder import normalised


class Orphan(NamedTuple):
    """A dist-info without a package, with the journal of a killed run; ``journal`` is None if it has no content."""

    dist_info: Path
    ground: Ground
    journal: Journal | None

    @property
    def words(self) -> str:
        """Return what was interrupted, in words."""
        verb = self.journal.verb if self.journal is not None else "run"
        return f"an interrupted {verb} of {self.dist_info.name.removesuffix('.dist-info')}"


@dataclass
class _Account:
    """The names of removed files and of files left alone."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def sentence(self, words: str, package: str) -> str:
        """Return one sentence: files of ``package`` by name, and the number of the run's own files."""
        named = [name for name in self.removed if name.startswith(f"{package}/")]
        own = len(self.removed) - len(named)
        parts = [", ".join(named)] if named else []
        parts += [f"{own} file{'s' if own != 1 else ''} of its state"] if own else []
        text = (
            f"{words} was cleaned up, since that installation is gone; removed: {' and '.join(parts) or 'its journal'}"
        )
        return text + (f"; left alone because edited since: {', '.join(self.left)}" if self.left else "")


def find(installation: Installation) -> Iterator[Orphan]:
    """Find the orphans beside ``installation`` without writing; ignore a journal that cannot be understood."""
    for dist_info in _strangers(installation):
        if not is_directory(dist_info / "gaudi-patch.journal"):
            continue
        ground = _ground(installation, dist_info)
        with contextlib.suppress(GaudiPatchError):
            yield Orphan(dist_info, ground, journal.load(ground))


def clear(installation: Installation, timeout: float | None, disk: Disk) -> list[str]:
    """Clean up every orphan beside ``installation``, whose lock is held; return an account of each.

    Idempotent: it may be killed and run again. Raises ``locked`` (exit 4) if another process uses one.
    """
    accounts = []
    for orphan in list(find(installation)):
        with directory_lock(orphan.dist_info, timeout), disk.within(orphan.ground.bounds), _errors(orphan.words):
            account = _cleared(orphan.ground, orphan.journal, _listed(installation, orphan.journal), disk)
        accounts.append(account.sentence(orphan.words, installation.package))
        with contextlib.suppress(OSError):
            # The killed run kept this directory from being removed with its release; an empty dist-info hides the
            # version from importlib.metadata. A dist-info that was empty before is left alone.
            orphan.dist_info.rmdir()
    return accounts


def clear_superseded(installation: Installation, disk: Disk) -> list[str]:
    """Clean up the journal of a killed run if the same release was reinstalled since; return an account.

    It was reinstalled if RECORD is neither what the run found nor what it may have written, and each listed file of
    the journal matches RECORD. Undoing the run would then be wrong, because what it found no longer exists.
    """
    ground = Ground.of(installation)
    left = journal.load(ground)
    if left is None or installation.record is None:
        return []
    rows = _listed(installation, left)
    if not _installed_anew(left, ground, installation.record, rows):
        return []
    with disk.within(ground.bounds), _errors(f"an interrupted {left.verb}"):
        account = _cleared(ground, left, rows, disk)
    return [account.sentence(f"an interrupted {left.verb} of an earlier installation", installation.package)]


def _strangers(installation: Installation) -> Iterator[Path]:
    """Yield the dist-info directories of the package beside ``installation`` that have no METADATA."""
    own = installation.dist_info
    if own is None:
        return
    for name in sorted(os.listdir(own.parent)):  # noqa: PTH208 - names alone
        stem, _, kind = name.rpartition(".")
        if kind != "dist-info" or name == own.name or normalised(stem.partition("-")[0]) != installation.package:
            continue
        path = own.parent / name
        if is_directory(path, follow=False) and not is_there(path / "METADATA"):
            yield path


def _ground(installation: Installation, dist_info: Path) -> Ground:
    state_dir = dist_info / "gaudi-patch"
    return Ground.of(replace(installation, dist_info=dist_info, record=dist_info / "RECORD", state_dir=state_dir))


def _listed(installation: Installation, left: Journal | None) -> Mapping[Path, record.Entry]:
    """Return the rows of the current RECORD for files of a journal and of the state, by path."""
    if installation.record is None or installation.dist_info is None or left is None:
        return {}
    image = read_image(installation.record, Ground.of(installation).bounds)
    base = installation.dist_info.parent
    names = {entry.path.relative_to(base).as_posix() for entry in left.entries if entry.path.is_relative_to(base)}
    wanted = {os.fsencode(name) for name in names}
    state = os.fsencode(f"{installation.state_dir.relative_to(base).as_posix()}/")
    rows = record.selected(image.data, lambda path: path in wanted or path.startswith(state)) if image else {}
    return {base / name: row for name, row in rows.items()}


def _installed_anew(left: Journal, ground: Ground, file: Path, rows: Mapping[Path, record.Entry]) -> bool:
    known = next((entry for entry in left.entries if entry.path == file), None)
    now = read_image(file, ground.bounds)
    if known is None or now is None or same_content(now, known.before):
        return False
    if left.phase == "replacing" and same_content(now, known.after):
        return False
    if any(path.is_relative_to(ground.state_dir) for path in rows):
        return False
    for entry in left.entries:
        row = rows.get(entry.path)
        if row is not None and row.digest:
            image = read_image(entry.path, ground.bounds)
            if image is None or record.Entry.of(image.data) != row:
                return False
    return True


def _cleared(ground: Ground, left: Journal | None, rows: Mapping[Path, record.Entry], disk: Disk) -> _Account:
    account = _Account()
    with uninterrupted():
        for entry in left.entries if left is not None else ():
            if is_there(entry.temp):
                disk.unlink(entry.temp)
                account.removed.append(_name(entry.temp, ground))
            if entry.path not in rows:
                _clear_entry(entry, ground, left.verb if left is not None else "", account, disk)
        made = [*left.created, *(path for path, _ in left.removed)] if left is not None else []
        made += [path / "__pycache__" for path in made]
        undo.remove_empty([*made, ground.state_dir / "backup", ground.state_dir], disk)
        for directory in undo.touched_directories(left) if left is not None else []:
            disk.sync_directory(directory)
        # Last, so that a run killed before this point starts over.
        if journal.FILE in disk.names(ground.home):
            disk.unlink(ground.home / journal.FILE)
            disk.sync_directory(ground.home)
        undo.clear(ground.home, disk)
    return account


def _clear_entry(entry: Entry, ground: Ground, verb: str, account: _Account, disk: Disk) -> None:
    """Remove a target that has the bytes that the run wrote, and its cached bytecode."""
    image = disk.read(entry.path)
    if image is None:
        return
    if any(same_content(image, ours) for ours in _ours(entry, ground, verb)):
        for variant in bytecode.variants(entry.path, str(ground.prefix) if ground.prefix else None, ground.bounds):
            cached = disk.read(variant.path) if entry.path.suffix == ".py" and variant.tag else None
            if cached is not None and _is_cache(cached.data, image):
                disk.unlink(variant.path)
                account.removed.append(_name(variant.path, ground))
        disk.unlink(entry.path)
        account.removed.append(_name(entry.path, ground))
    elif not entry.volatile and entry.before is None:
        account.left.append(_name(entry.path, ground))


def _ours(entry: Entry, ground: Ground, verb: str) -> list[Saved]:
    """Return the part of an entry that gaudi-patch wrote: not what a rollback restores, nor what an apply found."""
    mine = [entry.before] if verb == "rollback" else [entry.after]
    if entry.path.is_relative_to(ground.state_dir):
        mine = [entry.before, entry.after]
    return [saved for saved in mine if saved is not None]


def _is_cache(data: bytes, source: FileImage) -> bool:
    """Return whether a .pyc, by its header, was compiled from ``source``."""
    if data[4:8] == bytes(4):
        second = (source.mtime_ns or 0) // 1_000_000_000 & 0xFFFFFFFF
        return data[8:16] == second.to_bytes(4, "little") + len(source.data).to_bytes(4, "little")
    return data[:4] == importlib.util.MAGIC_NUMBER and data[8:16] == importlib.util.source_hash(source.data)


def _name(path: Path, ground: Ground) -> str:
    return str(path.relative_to(ground.root)) if path.is_relative_to(ground.root) else str(path)


@contextlib.contextmanager
def _errors(words: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise environment_error(error, f"clearing {words}", "its journal is kept for the next run") from error
