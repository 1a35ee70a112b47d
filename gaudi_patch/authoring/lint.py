"""`dev lint`: compare the manifest, the lock and the diffs with the wheels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gaudi_patch.authoring import lock, source, wheels
from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.errors import Exit, GaudiPatchError, bad_manifest, refused
from gaudi_patch.output.progress import step
from gaudi_patch.series import lock as lock_file
from gaudi_patch.series import patch_files
from gaudi_patch.series.diff import Kind, parse
from gaudi_patch.series.lock import Content
from gaudi_patch.series.manifest import Manifest, default_directory


@dataclass(frozen=True)
class Linted:
    """The result of comparing the manifest, its patches and the wheels with the lock.

    ``file`` is the lock. ``routing_lines``: by series, the number of lines changed in the release's own files.
    ``written``: the lock was renewed. ``fault``: the lock is stale, and renewing was not requested.
    """

    file: Path
    manifest: Manifest
    routing_lines: Mapping[str, int]
    written: bool = False
    fault: GaudiPatchError | None = None

    @property
    def exit(self) -> Exit:
        """Return the exit code."""
        return Exit.OK if self.fault is None else self.fault.exit


def lint(
    directory: Path | None, *, write: bool, known: Mapping[str, Path] | None = None, fewer_hunks: bool = False
) -> Linted:
    """Apply every series to its wheel in memory, compile the results, and compare the lock; ``write`` renews it.

    Renewing reads only the wheels of series whose patches have changed. known: local wheels by release, used instead of
    PyPI. Without ``fewer_hunks``, a patch with fewer hunks than before is refused: a lost hunk looks exactly like a
    removed one.
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    _refuse_strays(manifest)
    for series in manifest.series:
        manifest.verdict(lock.release_of(series))  # raises if two series claim the release
    file = directory / lock_file.NAME
    before = file.read_bytes() if file.is_file() else None
    old = _content(file)
    given = known or {}
    with step("comparing each series with its wheel", 0 if write else len(manifest.series)) as shown:
        data = lock.generate(
            directory,
            lambda version: given.get(version) or wheels.fetch(manifest.package, version),
            shown.end,
            old if write else None,
        )
    linted = Linted(file, manifest, routing(manifest))
    if before == data:
        return linted
    if not fewer_hunks and old is not None:
        _refuse_vanished(file, old, lock_file.parse(data, file))
    if not write:
        stale = GaudiPatchError(
            Exit.USAGE,
            "lock-stale",
            "differs from what the manifest, the patches and the wheels produce",
            lock_file.renew_hint(directory).removeprefix("maintainers: "),
            str(file),
        )
        return replace(linted, fault=stale)
    disk = Disk()
    temp = file.with_name(f".{file.name}.new")
    disk.unlink(temp)
    disk.write_new(temp, FileImage(data, 0o644))
    disk.replace(temp, file)
    disk.sync_directory(directory)
    return replace(linted, written=True)


def _content(file: Path) -> Content | None:
    """Return the existing lock; None if there is no readable one."""
    try:
        return lock_file.parse(file.read_bytes(), file)
    except (OSError, GaudiPatchError):
        return None


def _refuse_vanished(file: Path, old: Content, new: Content) -> None:
    gone = [
        f"{name}: {path}: {new.patches[name].hunks.get(path, 0)} of {number} hunks remain"
        for name, patch in old.patches.items()
        if name in new.patches
        for path, number in patch.hunks.items()
        if new.patches[name].hunks.get(path, -1) < number
    ]
    if gone:
        fault = refused(
            "hunk-vanished",
            "patches have fewer hunks than the lock says they had; nothing was written",
            "restore them; if they were removed on purpose, add --fewer-hunks to the command",
            str(file),
        )
        fault.details = gone
        raise fault


def routing(manifest: Manifest) -> dict[str, int]:
    """Return, by series, the number of lines added to and removed from the release's files, without new files."""
    changed = {
        name: sum(
            tag != b" "
            for change in parse(manifest.read_patch(name), name)
            if change.kind is not Kind.CREATE
            for hunk in change.hunks
            for tag, _ in hunk.lines
        )
        for name in manifest.patches
    }
    return {series.id: sum(changed[name] for name in series.patches) for series in manifest.series}


def _refuse_strays(manifest: Manifest) -> None:
    """Refuse files that belong to no patch of the manifest: they look like patches but are never applied."""
    own = {name for name, patch in manifest.patches.items() if not patch.built_in}
    trees = tuple(f"{name}/" for name in own if patch_files.is_source(name))
    stray = []
    for path in sorted(manifest.directory.rglob("*")):
        relative = path.relative_to(manifest.directory)
        if not path.is_file() or patch_files.is_litter(relative):
            continue
        name = relative.as_posix()
        kept = path.suffix == ".py" if name.startswith(trees) else name in own
        if not kept and name not in (lock_file.SOURCE, lock_file.NAME):
            stray.append(name)
    if stray:
        raise bad_manifest(f"no series uses {', '.join(stray)}", str(manifest.file), hint="list it, or remove it")
