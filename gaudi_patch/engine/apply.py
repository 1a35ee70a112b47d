"""`apply`: bring an installation to its series, as one transaction, and verify it from disk."""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch import __version__
from gaudi_patch.disk import Disk, Image, environment_error, sha256
from gaudi_patch.engine import describe, layout, plan, transaction
from gaudi_patch.engine.bytecode import variants
from gaudi_patch.engine.exclusive import exclusive
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.engine.plan import Plan, State
from gaudi_patch.engine.situation import LOCK_TIMEOUT, Situation, look
from gaudi_patch.engine.verdicts import drift, fault_of, settled, stale_bytecode, unknown_version
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Diff, Result, Text
from gaudi_patch.series.manifest import Kind, Manifest, Series, Verdict
from gaudi_patch.smoke import checks
from gaudi_patch.target.installation import Installation


@dataclass(frozen=True)
class Options:
    """What `apply` was asked for."""

    dry_run: bool = False
    diff: bool = False
    allow_offset: bool = False
    lock_timeout: float | None = LOCK_TIMEOUT  # None: --no-lock
    disk: Disk = field(default_factory=Disk)
    smoke: checks.Options | None = None


def apply(manifest: Manifest, installation: Installation, options: Options) -> Result:
    """Apply the series of the installed version. Exit 0 when the patched state holds, also if it did before.

    With ``dry_run`` everything is done but the writing, and no lock is taken. With ``smoke`` the result is
    proved after it was written; a failed level takes everything back and exits 5. What was patched before is
    proved only where levels are required, and left as it is.
    """
    required = options.smoke is not None and bool(options.smoke.require)
    if required and installation.python is None:
        raise checks.no_interpreter(installation)
    result = _apply(manifest, installation, options)
    if options.smoke is not None and (result.data["changed"] or required):
        return _prove(manifest, installation, options, result)
    return result


def _prove(manifest: Manifest, installation: Installation, options: Options, result: Result) -> Result:
    """Run the smoke checks; what this run has applied and fails them is rolled back."""
    from gaudi_patch.engine.rollback import Options as RollbackOptions
    from gaudi_patch.engine.rollback import rollback

    assert options.smoke is not None
    if installation.python is None:
        result.warnings.append("smoke checks skipped: no interpreter of the target can be run (--python names one)")
        return result

    def take_back() -> None:
        if result.data["changed"]:
            rollback(manifest, installation, RollbackOptions(lock_timeout=options.lock_timeout, disk=options.disk))

    try:
        levels = checks.run(installation, options.smoke)
        fault = checks.fault_of(levels, options.smoke)
    except BaseException:
        take_back()
        raise
    result.data["smoke"] = [checks.as_data(one) for one in levels]
    result.blocks += checks.blocks(levels)
    skipped = [
        f"smoke level {one.level} ({one.rules}) was skipped: {one.reason}" for one in levels if one.status == "skipped"
    ]
    result.warnings += skipped
    if fault is None:
        return result
    take_back()
    fault.message += "; the series was rolled back" if result.data["changed"] else "; nothing was changed"
    result.data["changed"] = False
    result.exit, result.errors = Exit.SMOKE, [fault]
    return result


def _apply(manifest: Manifest, installation: Installation, options: Options) -> Result:
    # A dry run takes no lock and recovers nothing.
    held: AbstractContextManager[list[str]] = nullcontext([])
    if not options.dry_run:
        held = exclusive(installation, options.lock_timeout, options.disk)
    with held as warnings:
        found, fault = settled(manifest, installation) if options.dry_run else (look(manifest, installation), None)
        if fault is not None:
            raise fault
        result = Result("apply", warnings=[*installation.warnings, *warnings])
        found = _with_series(found, options)
        if found.series is None and found.applied is None:
            return _nothing_to_do(found, result)
        if found.state is State.PATCHED and not stale_bytecode(found):
            return _already(found, result, options)
        if found.series is None:  # applied once, put back by hand since, and no longer in the manifest
            raise unknown_version(found)
        ground = Ground.of(installation)
        overlay = Overlay(ground.bounds)
        planned, leftover = _lay_out(found, overlay, options)
        todo = overlay.changes()
        if options.diff:
            result.blocks.append(Diff(unified(planned)))
        if options.dry_run:
            transaction.preflight(ground, todo, leftover)
            _probe_writable(todo)
            return _report(
                found, planned, result, f"would apply series {planned.series.id}; nothing was written", changed=False
            )
        try:
            result.warnings += transaction.run(ground, "apply", todo, options.disk, leftover, layout.source_date_ns())
        except OSError as error:
            raise environment_error(error, f"applying series {planned.series.id}", "everything was put back") from error
        after = look(manifest, installation)
        if after.state is not State.PATCHED:
            raise GaudiPatchError(
                Exit.BUG,
                "not-patched",
                f"applied, but the disk says {after.state}",
                "run `gaudi-patch check`",
                str(installation.root),
            )
        return _report(after, planned, result, f"applied series {planned.series.id}; verified from disk", changed=True)


def _with_series(found: Situation, options: Options) -> Situation:
    """Refuse what cannot be applied; with --allow-offset an unknown version gets the nearest series."""
    fault = fault_of(found)
    if fault is None or found.state is State.PARTIAL:
        return found
    nearest = found.verdict.nearest
    if options.allow_offset and found.verdict.kind is Kind.UNKNOWN and found.applied is None and nearest is not None:
        verdict = Verdict(Kind.SERIES, found.verdict.version, nearest)
        return found._replace(series=nearest, verdict=verdict, state=None, files=())
    raise drift(found) if fault.code == "drift" else fault


def _lay_out(found: Situation, overlay: Overlay, options: Options) -> tuple[Plan, list[Path]]:
    """The plan, laid on the overlay; also the folders of an older series that may be left empty."""
    manifest, installation, series = found.manifest, found.installation, found.series
    assert series is not None
    unknown = found.state is None
    locked = None if unknown else manifest.locked_files(series)
    paths = sorted(locked) if locked is not None else [one.path for _, one in plan.parse_series(manifest, series)]
    leftover: list[Path] = []
    if found.applied is not None:
        leftover = layout.unapply(overlay, installation, found.applied)
    elif found.state in (State.PARTIAL, State.PATCHED):
        _take_back(found, series, overlay)
    plan.refuse_compiled(installation.root, paths)
    pristine = {path: overlay.get(plan.target(installation.root, installation.package, path)) for path in paths}
    owner = _owner(installation)
    planned = plan.build(manifest, series, pristine, locked=locked, owner=owner)
    digests = {name: sha256(manifest.patch_bytes(name)) for name in series.patches}
    facts = layout.Facts(digests, __version__, layout.stamp_ns(), unknown, found.applied)
    layout.apply(overlay, installation, planned, facts)
    return planned, leftover


def _take_back(found: Situation, series: Series, overlay: Overlay) -> None:
    """Files that something else patched become pristine on the overlay, by applying their hunks backwards."""
    locked = found.locked
    patched = {one.path for one in found.files if one.state is State.PATCHED}
    root = found.installation.root
    images = {path: overlay.get(root / path) for path in patched}
    for one in plan.reverse(found.manifest, series, images, {path: locked[path] for path in patched}).files:
        overlay.set(root / one.path, one.before)
        # Bytecode of the patched code, kept as the pristine file's, would come back with a rollback.
        for variant in variants(root / one.path, found.installation.pycache_prefix):
            overlay.set(variant.path, None, volatile=True)


def _owner(installation: Installation) -> tuple[int, int]:
    """Created files belong to whom the package belongs."""
    info = (installation.root / installation.package).stat()
    return info.st_uid, info.st_gid


def _probe_writable(todo: list[transaction.Change]) -> None:
    """A dry run says now what a real one would meet: os.access lies for root on immutable and read-only media."""
    import os

    for folder in sorted({change.path.parent for change in todo}):
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            raise environment_error(
                OSError(30, "Read-only file system", str(existing)), "looking at what apply would write"
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise environment_error(
                PermissionError(13, "Permission denied", str(existing)), "looking at what apply would write"
            )


def _nothing_to_do(found: Situation, result: Result) -> Result:
    result.data = {**describe.data(found), "changed": False}
    result.blocks.append(Text(f"nothing to do: {found.verdict.reason}", "good"))
    return result


def _already(found: Situation, result: Result, options: Options) -> Result:
    result.data = {**describe.data(found), "changed": False}
    name = found.applied.series if found.applied else found.series.id if found.series else ""
    result.blocks += describe.blocks(found)
    result.blocks.append(Text(f"series {name} is applied already; nothing was written", "good"))
    if options.diff and found.series is not None:
        result.blocks.append(Text("no difference"))
    return result


def _report(found: Situation, planned: Plan, result: Result, text: str, *, changed: bool) -> Result:
    result.data = {
        **describe.data(found),
        "changed": changed,
        "planned": [
            {
                "path": one.path,
                "action": action(one),
                "pre_sha256": one.before.sha256 if one.before else None,
                "post_sha256": one.after.sha256 if one.after else None,
            }
            for one in planned.files
        ],
    }
    result.blocks += describe.blocks(found)
    result.blocks.append(Text(text, "good"))
    for path, lines in planned.offsets.items():
        moved = ", ".join(f"{line:+d}" for line in lines)
        if not changed or found.applied is None or found.applied.offset:
            result.warnings.append(f"{path}: hunks stand at other lines than in the patch ({moved})")
    if changed:
        result.blocks.append(Text("next: restart processes that have LMCache loaded", "next"))
    return result


def action(one: plan.PlannedFile) -> str:
    """What happens to a file."""
    return "create" if one.before is None else "delete" if one.after is None else "modify"


def unified(planned: Plan) -> str:
    """The plan as one unified diff, for people: what was asked for, not what the patches say."""
    out: list[str] = []
    for one in planned.files:
        before, after = _lines(one.before), _lines(one.after)
        old, new = (f"a/{one.path}" if one.before else "/dev/null"), (f"b/{one.path}" if one.after else "/dev/null")
        for line in difflib.unified_diff(before, after, old, new):
            out.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(out)


def _lines(image: Image | None) -> list[str]:
    return image.data.decode("utf-8", "backslashreplace").splitlines(keepends=True) if image else []
