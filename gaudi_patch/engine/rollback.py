"""`rollback`: back to pristine, byte-exact, RECORD and bytecode included."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.disk import Disk, environment_error, read_image
from gaudi_patch.engine import describe, layout, plan, transaction
from gaudi_patch.engine.bytecode import variants
from gaudi_patch.engine.exclusive import exclusive
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.saved_copies import save
from gaudi_patch.engine.situation import LOCK_TIMEOUT, Situation, look
from gaudi_patch.engine.verdicts import fault_of
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Text
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.installation import Installation


@dataclass(frozen=True)
class Options:
    """What `rollback` was asked for. Edited copies go to ``save_to`` with ``force``."""

    force: bool = False
    save_to: Path = Path()
    lock_timeout: float | None = LOCK_TIMEOUT  # None: --no-lock
    disk: Disk = field(default_factory=Disk)


def rollback(manifest: Manifest, installation: Installation, options: Options) -> Result:
    """Restore every file that the applied series changed. Exit 0 when the pristine state holds.

    Works from the state alone, whatever the manifest says now; where a series was applied by something
    else and there is no state, its hunks are applied backwards and held against the lock.
    """
    with exclusive(installation, options.lock_timeout, options.disk) as warnings:
        found = look(manifest, installation)
        result = Result("rollback", warnings=[*installation.warnings, *warnings])
        if found.applied is None and found.state not in (State.PATCHED, State.PARTIAL):
            return _nothing_to_roll_back(found, result)
        edited = [one for one in found.files if one.state in (State.MODIFIED, State.MISSING)]
        ground = Ground.of(installation)
        overlay = Overlay(ground.bounds)
        saved = _set_aside(found, edited, overlay, options)
        folders = _lay_out(found, overlay)
        todo = overlay.changes()
        try:
            result.warnings += transaction.run(ground, "rollback", todo, options.disk, folders, layout.source_date_ns())
        except OSError as error:
            raise environment_error(error, "rolling back", "everything was put back to the patched state") from error
        return _verified(manifest, found, result, saved)


def _nothing_to_roll_back(found: Situation, result: Result) -> Result:
    result.data = {**describe.data(found), "changed": False, "saved": []}
    fault = fault_of(found)
    if fault is not None and fault.code == "drift":
        raise fault
    result.blocks.append(Text("nothing is applied; nothing was written", "good"))
    return result


def _set_aside(found: Situation, edited: list[FileState], overlay: Overlay, options: Options) -> list[str]:
    """Copy files that were edited since to where the user wants them, before anything is touched."""
    changed = [one for one in edited if one.state is State.MODIFIED]
    if edited and not options.force:
        raise GaudiPatchError(
            Exit.REFUSED,
            "edited-since",
            f"{len(edited)} file{'s were' if len(edited) != 1 else ' was'} edited since the series was applied; "
            "nothing was changed",
            "`rollback --force` saves the edited copies (--save-to DIR) and restores the pristine files",
            str(found.installation.root),
            details=[f"{one.state.value}: {one.path}" for one in edited],
        )
    saved = []
    try:
        for one in changed:
            # The overlay keeps what it read: an edit made after this is met by the transaction, and not lost.
            image = overlay.get(found.installation.root / one.path)
            assert image is not None
            copy = save(Path(one.path).name, image, options.save_to.resolve(), options.disk, found.installation.root)
            saved.append(str(copy))
    except OSError as error:
        raise environment_error(error, "saving an edited copy") from error
    return saved


def _lay_out(found: Situation, overlay: Overlay) -> list[Path]:
    installation = found.installation
    if found.applied is not None:
        return layout.unapply(overlay, installation, found.applied)
    series = found.series
    assert series is not None
    locked = found.locked
    root = installation.root
    patched = {one.path for one in found.files if one.state is State.PATCHED}
    images = {path: overlay.get(root / path) for path in patched}
    folders: dict[Path, None] = {}
    for one in plan.reverse(found.manifest, series, images, {path: locked[path] for path in patched}).files:
        # A new mtime, so that no timestamp .pyc of the patched file can pass for the pristine one.
        image = one.before._replace(mtime_ns=layout.stamp_ns()) if one.before else None
        overlay.set(root / one.path, image)
        for variant in variants(root / one.path, installation.pycache_prefix):
            overlay.set(variant.path, None, volatile=True)
        if one.before is None:
            folders.update(dict.fromkeys([(root / one.path).parent, (root / one.path).parent / "__pycache__"]))
    return [folder for folder in folders if folder != root / installation.package]


def _verified(manifest: Manifest, before: Situation, result: Result, saved: list[str]) -> Result:
    """Exit 0 only after the disk was read again."""
    installation = before.installation
    for one in before.files:
        image = read_image(installation.root / one.path)
        if (image.sha256 if image else None) != one.before:
            raise GaudiPatchError(
                Exit.BUG, "not-pristine", "rolled back, but the disk does not hold the pristine file", file=one.path
            )
    after = look(manifest, installation)
    name = before.applied.series if before.applied else before.series.id if before.series else ""
    result.data = {**describe.data(after), "changed": True, "rolled_back": name, "saved": saved}
    result.blocks += describe.blocks(after)
    result.blocks += [Text(f"kept your edited copy: {path}", verbatim=True) for path in saved]
    result.blocks.append(Text(f"rolled back series {name}; verified from disk", "good"))
    return result
