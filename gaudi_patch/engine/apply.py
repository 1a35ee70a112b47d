"""`apply`: apply an installation's series as one transaction, and verify it from disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch import __version__
from gaudi_patch.disk import Disk, FileImage, environment_error, sha256
from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import layout, plan, record, transaction
from gaudi_patch.engine.bytecode import variants
from gaudi_patch.engine.bytecode_check import verify
from gaudi_patch.engine.exclusive import exclusive
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.outcome import ApplyOutcome, Done
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.engine.plan import Plan, State
from gaudi_patch.engine.pristine import pristine_images
from gaudi_patch.engine.progress import Progress
from gaudi_patch.engine.situation import LOCK_TIMEOUT, Situation, look
from gaudi_patch.engine.verdicts import drift, fault_of, hidden, settled, stale_bytecode, unknown_version
from gaudi_patch.engine.way_out import way_out
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.opening import look_at
from gaudi_patch.series.manifest import Kind, Manifest, Verdict
from gaudi_patch.target.installation import Installation


@dataclass(frozen=True)
class ApplyOptions:
    """The options of `apply`.

    ``unproved`` marks in the state that smoke checks are due, until :func:`confirm` removes the mark.
    ``lock_timeout`` is in seconds, None for --no-lock.
    """

    dry_run: bool = False
    allow_offset: bool = False
    lock_timeout: float | None = LOCK_TIMEOUT
    disk: Disk = field(default_factory=Disk)
    unproved: bool = False


def apply(
    manifest: Manifest, installation: Installation, options: ApplyOptions, progress: Progress | None = None
) -> ApplyOutcome:
    """Apply the series of the installed version; write nothing if it is already applied.

    With ``dry_run``, everything but the writing is done, without a lock. ``progress`` is updated at every stage and
    stays correct whatever is raised: a refusal, ``undo-failed`` or ``unverified`` (exit 6).
    """
    progress = Progress() if progress is None else progress
    held: AbstractContextManager[list[str]] = nullcontext([])
    if not options.dry_run:
        held = exclusive(manifest, installation, options.lock_timeout, options.disk, progress)
    with way_out(installation), held as noted:
        situation, fault = settled(manifest, installation) if options.dry_run else (look(manifest, installation), None)
        if fault is not None:
            raise fault
        warnings = (*installation.warnings, *noted)
        situation = _with_series(situation, options)
        if situation.series is None and situation.applied is None and situation.built is None:
            return ApplyOutcome(Done.NOT_NEEDED, situation, situation, warnings=warnings)
        if situation.state is State.PATCHED and not (old := stale_bytecode(situation)):
            known = situation.applied or situation.built
            name = known.series if known else situation.series.id if situation.series else ""
            return ApplyOutcome(Done.ALREADY, situation, situation, name, warnings=warnings)
        if situation.built is not None and situation.state is State.PATCHED:
            raise hidden(situation, old)
        if situation.series is None:  # applied earlier, then restored by hand, and no longer in the manifest
            raise unknown_version(situation)
        ground = situation.ground
        overlay = Overlay(ground.bounds)
        planned, leftover = _lay_out(situation, overlay, options)
        todo = overlay.changes()
        series = planned.series.id
        if situation.state is None:  # --allow-offset: no hash confirms where the hunks belong
            warnings += tuple(_moved(planned))
        if options.dry_run:
            transaction.preflight(ground, todo, leftover)
            _probe_writable(todo)
            return ApplyOutcome(Done.WOULD_APPLY, situation, situation, series, planned, warnings)
        progress.goal = f"series {series} is applied"
        warnings += tuple(
            _carry_out(
                "apply",
                f"applying series {series}",
                situation,
                todo,
                options.disk,
                leftover,
                progress,
                lambda: verify(installation, [file.path for file in planned.files], overlay.bytecode()),
            )
        )
        with reading_again(situation, progress):
            after = look(manifest, installation)
        if after.state is not State.PATCHED:
            others = [f"{file.state.value}: {file.path}" for file in after.files if file.state is not State.PATCHED]
            raise changed_since("not-patched", situation, progress, others)
        return ApplyOutcome(Done.APPLIED, situation, after, series, planned, warnings)


def confirm(manifest: Manifest, installation: Installation, options: ApplyOptions) -> Situation:
    """Remove the mark of an unproved series; write nothing if there is none."""
    with exclusive(manifest, installation, options.lock_timeout, options.disk):
        situation = look(manifest, installation)
        if situation.applied is None or not situation.applied.unproved:
            return situation
        overlay = Overlay(Ground.of(installation).bounds)
        file = installation.state_dir / applied_state.STATE_FILE
        data = situation.applied._replace(unproved=False).to_bytes()
        stamp = layout.stamp_ns()
        old = overlay.get(file)
        overlay.set(file, FileImage(data, old.mode if old else 0o644, stamp, old.owner if old else None))
        listed = overlay.get(installation.record) if installation.record is not None else None
        if listed is not None and installation.record is not None and installation.dist_info is not None:
            row = file.relative_to(installation.dist_info.parent).as_posix()
            rows = record.updated(listed.data, {row: record.Entry.of(data)})
            overlay.set(installation.record, FileImage(rows, listed.mode, stamp, listed.owner, listed.link))
        _carry_out("apply", "recording the proof", situation, overlay.changes(), options.disk, [], Progress())
        return look(manifest, installation)


@contextmanager
def reading_again(situation: Situation, progress: Progress) -> Iterator[None]:
    """Read committed files in the block. Raises ``unverified`` (exit 6) if they can no longer be read."""
    try:
        yield
    except (OSError, GaudiPatchError) as error:
        what = error.message if isinstance(error, GaudiPatchError) else error.strerror or str(error)
        file = error.file if isinstance(error, GaudiPatchError) else str(error.filename or situation.installation.root)
        raise GaudiPatchError(
            Exit.HUMAN,
            "unverified",
            f"{progress.words()}, and was read back before the commit; but it could not be re-read: {what}",
            f"check the disk; `{situation.command('check')}` reads it again",
            file,
        ) from error


def changed_since(code: str, situation: Situation, progress: Progress, files: Sequence[str]) -> GaudiPatchError:
    """Return the error for ``files`` that changed after they were committed and verified."""
    return GaudiPatchError(
        Exit.HUMAN,
        code,
        f"{progress.words()}, and was read back before the commit; but since then something else has changed "
        f"{len(files)} file{'s' if len(files) != 1 else ''}",
        f"stop the program that writes there; `{situation.command('check')}` shows the current state",
        str(situation.installation.root),
        details=files,
    )


def _carry_out(
    verb: str,
    doing: str,
    situation: Situation,
    todo: list[transaction.Change],
    disk: Disk,
    leftover: list[Path],
    progress: Progress,
    check: Callable[[], object] | None = None,
) -> list[str]:
    try:
        return transaction.run(situation.ground, verb, todo, disk, leftover, layout.source_date_ns(), progress, check)
    except OSError as error:
        raise environment_error(error, doing, progress.words()) from error


def _with_series(situation: Situation, options: ApplyOptions) -> Situation:
    """Refuse what cannot be applied; with --allow-offset, give an unknown version the nearest series."""
    fault = fault_of(situation)
    if fault is None or (situation.state is State.PARTIAL and situation.built is None):
        return situation
    nearest = situation.verdict.nearest
    if (
        options.allow_offset
        and situation.verdict.kind is Kind.UNKNOWN
        and situation.applied is None
        and nearest is not None
    ):
        verdict = Verdict(Kind.SERIES, situation.verdict.version, nearest)
        return situation._replace(series=nearest, verdict=verdict, state=None, files=())
    raise drift(situation) if fault.code == "drift" and situation.built is None else fault


def _lay_out(situation: Situation, overlay: Overlay, options: ApplyOptions) -> tuple[Plan, list[Path]]:
    """Return the plan, laid on the overlay, and the directories of an older series that may become empty."""
    manifest, installation, series = situation.manifest, situation.installation, situation.series
    assert series is not None
    unknown = situation.state is None
    locked = None if unknown else manifest.locked_files(series)
    paths = sorted(locked) if locked is not None else [change.path for _, change in plan.parse_series(manifest, series)]
    leftover: list[Path] = []
    if situation.applied is not None:
        leftover = layout.unapply(overlay, installation, situation.applied)
    elif situation.state in (State.PARTIAL, State.PATCHED):
        bounds = Ground.of(installation).bounds
        for path, image in pristine_images(situation).items():
            overlay.set(installation.root / path, image)
            # Bytecode of the patched code, saved as pristine, would return with a rollback.
            for variant in variants(installation.root / path, installation.pycache_prefix, bounds):
                overlay.set(variant.path, None, volatile=True)
    plan.refuse_compiled(installation.root, paths)
    pristine = {path: overlay.get(plan.target(installation.root, installation.package, path)) for path in paths}
    owner = _owner(installation)
    planned = plan.build(manifest, series, pristine, locked=locked, owner=owner)
    digests = {name: sha256(manifest.patch_bytes(name)) for name in series.patches}
    facts = layout.Facts(digests, __version__, layout.stamp_ns(), unknown, situation.applied, options.unproved)
    layout.apply(overlay, installation, planned, facts)
    return planned, leftover


def _moved(planned: Plan) -> list[str]:
    return [
        f"{path}: hunks apply at different lines than in the patch ({', '.join(f'{line:+d}' for line in lines)})"
        for path, lines in planned.offsets.items()
    ]


def _owner(installation: Installation) -> tuple[int, int]:
    """Return the owner of created files: that of the package."""
    info = (installation.root / installation.package).stat()
    return info.st_uid, info.st_gid


def _probe_writable(todo: list[transaction.Change]) -> None:
    """Raise the error that a real run would meet: for root, os.access is wrong on immutable and read-only media."""
    for folder in sorted({change.path.parent for change in todo}):
        existing = folder
        while look_at(existing, follow=True) is None:
            existing = existing.parent
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            raise environment_error(
                OSError(30, "Read-only file system", str(existing)), "checking what apply would write"
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise environment_error(
                PermissionError(13, "Permission denied", str(existing)), "checking what apply would write"
            )
