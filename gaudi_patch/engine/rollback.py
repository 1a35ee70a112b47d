"""`rollback`: restore the pristine files byte for byte, RECORD and bytecode included."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.disk import Disk, environment_error, read_image
from gaudi_patch.engine import layout, transaction
from gaudi_patch.engine.apply import changed_since, reading_again
from gaudi_patch.engine.bytecode import variants
from gaudi_patch.engine.bytecode_check import verify
from gaudi_patch.engine.exclusive import exclusive
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.outcome import Done, RollbackOutcome
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.pristine import pristine_images
from gaudi_patch.engine.progress import Progress
from gaudi_patch.engine.saved_copies import save
from gaudi_patch.engine.situation import LOCK_TIMEOUT, Situation, look
from gaudi_patch.engine.verdicts import built_in, fault_of
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.installation import Installation


@dataclass(frozen=True)
class RollbackOptions:
    """The options of `rollback`.

    With ``force``, edited copies go to ``save_to``. ``lock_timeout`` is in seconds, None for --no-lock.
    """

    force: bool = False
    save_to: Path = Path()
    lock_timeout: float | None = LOCK_TIMEOUT
    disk: Disk = field(default_factory=Disk)


def rollback(
    manifest: Manifest, installation: Installation, options: RollbackOptions, progress: Progress | None = None
) -> RollbackOutcome:
    """Restore every file that the applied series changed; write nothing if all are pristine.

    Only the state is used, not the current manifest. If something else applied a series and there is no state, its
    hunks are reverse-applied and compared with the lock. ``progress`` is updated at every stage and stays correct
    whatever is raised.
    """
    progress = Progress() if progress is None else progress
    with exclusive(manifest, installation, options.lock_timeout, options.disk, progress) as noted:
        situation = look(manifest, installation)
        warnings = (*installation.warnings, *noted)
        if situation.built is not None:
            raise built_in(situation)
        if situation.applied is None and situation.state not in (State.PATCHED, State.PARTIAL):
            fault = fault_of(situation)
            if fault is not None and fault.code == "drift":
                raise fault
            return RollbackOutcome(Done.ALREADY, situation, situation, warnings=warnings)
        edited = [item for item in situation.files if item.state in (State.MODIFIED, State.MISSING)]
        ground = situation.ground
        overlay = Overlay(ground.bounds)
        saved = _save_edited(situation, edited, overlay, options)
        folders = _lay_out(situation, overlay)
        todo = overlay.changes()
        name = situation.applied.series if situation.applied else situation.series.id if situation.series else ""
        progress.goal = f"series {name} is rolled back"
        time_ns = layout.source_date_ns()
        try:
            names = [file.path for file in situation.files]
            warnings += tuple(
                transaction.run(
                    ground,
                    "rollback",
                    todo,
                    options.disk,
                    folders,
                    time_ns,
                    progress,
                    lambda: verify(installation, names, {}, overlay.bytecode()),
                )
            )
        except OSError as error:
            raise environment_error(error, "rolling back", progress.words()) from error
        after = _verified(manifest, situation, progress)
        return RollbackOutcome(Done.ROLLED_BACK, situation, after, name, tuple(saved), warnings)


def _save_edited(
    situation: Situation, edited: list[FileState], overlay: Overlay, options: RollbackOptions
) -> list[Path]:
    """Copy edited files to the directory that the user chose, before anything is changed."""
    changed = [file for file in edited if file.state is State.MODIFIED]
    if edited and not options.force:
        raise GaudiPatchError(
            Exit.REFUSED,
            "edited-since",
            f"{len(edited)} file{'s were' if len(edited) != 1 else ' was'} edited since the series was applied; "
            "nothing was changed",
            f"`{situation.command('rollback', '--force')}` saves the edited copies (--save-to DIR) and restores the "
            "pristine files",
            str(situation.installation.root),
            details=[f"{file.state.value}: {file.path}" for file in edited],
        )
    saved = []
    try:
        for file in changed:
            # The overlay keeps what it read, so the transaction detects a later edit and does not lose it.
            image = overlay.get(situation.installation.root / file.path)
            assert image is not None
            name = Path(file.path).name
            saved.append(save(name, image, options.save_to.resolve(), options.disk, situation.installation.root))
    except OSError as error:
        raise environment_error(error, "saving an edited copy") from error
    return saved


def _lay_out(situation: Situation, overlay: Overlay) -> list[Path]:
    installation = situation.installation
    if situation.applied is not None:
        return layout.unapply(overlay, installation, situation.applied)
    root, bounds = installation.root, Ground.of(installation).bounds
    folders: dict[Path, None] = {}
    for path, pristine in pristine_images(situation).items():
        # A new mtime, so that no timestamp .pyc of the patched file matches the pristine file.
        overlay.set(root / path, pristine._replace(mtime_ns=layout.stamp_ns()) if pristine else None)
        for variant in variants(root / path, installation.pycache_prefix, bounds):
            overlay.set(variant.path, None, volatile=True)
        if pristine is None:
            folders.update(dict.fromkeys([(root / path).parent, (root / path).parent / "__pycache__"]))
    return [folder for folder in folders if folder != root / installation.package]


def _verified(manifest: Manifest, before: Situation, progress: Progress) -> Situation:
    """Read the disk again: after a rollback all files must have their pristine hashes, whatever the manifest says."""
    installation = before.installation
    with reading_again(before, progress):
        after = look(manifest, installation)
        bounds = Ground.of(installation).bounds
        pristine = {file.path: file.before for file in before.files}
        images = {file.path: read_image(installation.root / file.path, bounds) for file in before.files}
    others = [path for path, image in images.items() if (image.sha256 if image else None) != pristine[path]]
    if others:
        raise changed_since("not-pristine", before, progress, [f"not pristine: {path}" for path in others])
    return after
