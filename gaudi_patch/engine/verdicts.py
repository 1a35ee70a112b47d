"""The meaning of a situation: whether apply and rollback can proceed, why not, and what to type next."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.engine.plan import State, refuse_compiled
from gaudi_patch.engine.situation import Situation, look
from gaudi_patch.engine.way_out import reinstall
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import lock
from gaudi_patch.series.manifest import Kind, Manifest, Verdict
from gaudi_patch.target.installation import Installation

if TYPE_CHECKING:
    from gaudi_patch.engine.bytecode_check import Wrong
    from gaudi_patch.engine.orphans import Orphan

#: States that a running command passes through briefly.
UNSETTLED = (State.PARTIAL, State.MODIFIED, State.MISSING)

EXITS = {
    State.PATCHED: Exit.OK,
    State.PRISTINE: Exit.PENDING,
    State.OUTDATED: Exit.PENDING,
    State.PARTIAL: Exit.REFUSED,
    State.MODIFIED: Exit.REFUSED,
    State.MISSING: Exit.REFUSED,
}


class Assessment(NamedTuple):
    """The result of `check` for a situation: its exit code, the fault if there is one, and warnings."""

    situation: Situation
    exit: Exit
    fault: GaudiPatchError | None = None
    warnings: tuple[str, ...] = ()


def assess(manifest: Manifest, installation: Installation) -> Assessment:
    """Assess an installation: exit 0 patched or nothing to do, 10 a series would apply, 1 drift, 3 no series.

    Writes nothing. A fault is returned with the situation, not raised. Raises only for what cannot be read or trusted.
    """
    situation, fault = settled(manifest, installation)
    fault = fault or fault_of(situation) or _fault_of_series(situation)
    if fault is not None:
        return Assessment(situation, fault.exit, fault)
    if situation.state is None:  # upstream has it
        return Assessment(situation, Exit.OK)
    return Assessment(situation, EXITS[situation.state], warnings=tuple(_warnings(situation)))


def _fault_of_series(situation: Situation) -> GaudiPatchError | None:
    """Return why a uniform state is still a fault: its series no longer exists, or bytecode hides it."""
    if situation.state in (State.PRISTINE, State.OUTDATED):
        if situation.series is None:  # applied once, restored by hand since, and no longer in the manifest
            return unknown_version(situation)
        refuse_compiled(situation.installation.root, [file.path for file in situation.files])
        for name in situation.series.patches:
            situation.manifest.patch_bytes(
                name
            )  # compared with the lock: pristine files are certain to accept the series
    elif situation.state is State.PATCHED and (old := stale_bytecode(situation)):
        return hidden(situation, old)
    return None


def _warnings(situation: Situation) -> list[str]:
    if situation.state is not State.PATCHED:
        return []
    if situation.built is not None:
        unknown = f"the wheel was built with series {situation.built.series}, but the manifest no longer has it"
        return [unknown] if situation.series is None else []
    if situation.applied is None:
        return ["patched by something other than gaudi-patch: there is no state, but rollback works"]
    warnings = []
    if situation.applied.unproved:
        warnings.append(unproved(situation))
    if situation.series is None:
        warnings.append(f"series {situation.applied.series} is applied, but the manifest no longer has it")
    return warnings


def unproved(situation: Situation) -> str:
    """Return a warning that the applied series has not finished its smoke checks, with the command that proves it."""
    assert situation.applied is not None
    return (
        f"series {situation.applied.series} is applied but not proved: its smoke checks are still running, or were "
        f"killed; `{situation.command('apply')}` proves it, `{situation.command('rollback')}` removes it"
    )


def stale_bytecode(situation: Situation) -> list[Wrong]:
    """Return the bytecode that Python would run instead of the patched sources, each with its fault."""
    from gaudi_patch.engine.bytecode_check import recorded, wrong

    names = [file.path for file in situation.files]
    return wrong(situation.installation, names, recorded(situation.installation, situation.applied))


def hidden(situation: Situation, old: list[Wrong]) -> GaudiPatchError:
    """Return the error for patched sources that Python would not run."""
    return GaudiPatchError(
        Exit.REFUSED,
        "stale-bytecode",
        "every source is patched, but Python would run other cached bytecode; nothing was changed",
        f"`{situation.command('apply')}` removes it"
        if situation.built is None
        else f"`{shlex.join(['rm', *(str(cached.path) for cached in old)])}` removes it",
        str(old[0].path),
        details=[str(path) for path in old],
    )


def settled(manifest: Manifest, installation: Installation) -> tuple[Situation, GaudiPatchError | None]:
    """Read the situation without a lock; read an intermediate state again while writers are kept out.

    Returns the situation, and ``locked`` or ``interrupted`` if there is a journal of a running writer or
    of a killed run.
    """
    from gaudi_patch.engine import orphans

    situation = look(manifest, installation)
    orphan = next(orphans.find(installation), None)
    if orphan is None and situation.interrupted is None and situation.state not in UNSETTLED:
        return situation, None
    from gaudi_patch.engine.locking import locked, no_writer

    if orphan is not None:
        with no_writer(orphan.dist_info) as writer:
            if writer is not None:
                return situation, locked(orphan.dist_info, holder=writer)
        return situation, orphaned(situation, orphan)
    folder = installation.state_dir.parent
    with no_writer(folder) as writer:
        situation = look(manifest, installation)
    if situation.interrupted is None:
        return situation, None
    return situation, locked(folder, holder=writer) if writer is not None else interrupted(situation)


def orphaned(situation: Situation, orphan: Orphan) -> GaudiPatchError:
    """Return the error for the journal of a run that was killed before another release was installed."""
    return GaudiPatchError(
        Exit.REFUSED,
        "interrupted",
        f"{orphan.words}, which is no longer installed, left files behind",
        f"`{situation.command('apply')}` or `{situation.command('rollback')}`: either one first cleans them up",
        str(orphan.dist_info),
    )


def interrupted(situation: Situation) -> GaudiPatchError:
    """Return the error for a killed run's journal: the state is mixed until the next apply or rollback."""
    assert situation.interrupted is not None
    return GaudiPatchError(
        Exit.REFUSED,
        "interrupted",
        f"an interrupted {situation.interrupted.verb} left its journal; files may be on both sides",
        f"`{situation.command('apply')}` or `{situation.command('rollback')}`: "
        "either one first undoes the interrupted run",
        str(situation.installation.state_dir),
    )


def fault_of(situation: Situation) -> GaudiPatchError | None:
    """Return why neither apply nor rollback can proceed; None if they can."""
    verdict, installation = situation.verdict, situation.installation
    if situation.built is not None:
        return _fault_of_wheel(situation)
    if situation.applied is None and verdict.kind is Kind.REFUSED:
        return GaudiPatchError(
            Exit.NOT_FOUND, "refused-version", f"LMCache {verdict.version} is refused: {verdict.reason}", verdict.advice
        )
    if situation.applied is None and verdict.kind is Kind.UNKNOWN:
        return unknown_version(situation)
    if situation.state in (State.MODIFIED, State.MISSING):
        return drift(situation)
    if situation.state is State.PARTIAL:
        names = [f"{file.state.value}: {file.path}" for file in situation.files]
        return GaudiPatchError(
            Exit.REFUSED,
            "partial",
            "some files are patched and some are pristine; something other than gaudi-patch caused this",
            next_step(situation),
            str(installation.root),
            details=names,
        )
    return None


def _fault_of_wheel(situation: Situation) -> GaudiPatchError | None:
    """Return why a patched wheel differs from how it was built, or from how it would be built now."""
    built = situation.built
    assert built is not None
    if situation.state is State.OUTDATED:
        anew, held = situation.rebuild(), situation.command("check", "--against", "FILE")
        return GaudiPatchError(
            Exit.REFUSED,
            "built-otherwise",
            f"{built.version} was built with different patches than this gaudi-patch has for series {built.series}; "
            "nothing was changed",
            f"`{anew}` rebuilds the wheel; `{held}` compares it with its own attestation",
            str(situation.installation.root),
        )
    if situation.state is State.PATCHED:
        return None
    changed = [file for file in situation.files if file.current != file.after]
    return GaudiPatchError(
        Exit.REFUSED,
        "drift",
        f"{len(changed)} file(s) differ from the patched wheel; nothing was changed",
        f"reinstall the wheel: `{reinstall(situation.installation)}`",
        str(situation.installation.root),
        details=[f"{file.state.value}: {file.path}" for file in changed],
    )


def built_in(situation: Situation) -> GaudiPatchError:
    """Return the error for a rollback of a wheel that was patched when built."""
    built = situation.built
    assert built is not None
    release = reinstall(situation.installation, f"==={built.release}")
    return GaudiPatchError(
        Exit.REFUSED,
        "built-in",
        f"series {built.series} was applied when the wheel of {built.version} was built: there is nothing to roll back "
        "to; nothing was changed",
        f"`{release}` installs the release's own wheel ({built.wheel})",
        str(situation.installation.root),
    )


def unknown_version(situation: Situation) -> GaudiPatchError:
    """Return the error for a version that the manifest does not know, and whose files match no series by hash."""
    verdict = situation.verdict
    version = verdict.version or "of unknown version"
    nearest = f"; the nearest series is {verdict.nearest.id}" if verdict.nearest else ""
    return GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for LMCache {version}{nearest}; nothing was changed",
        f"`{situation.command('apply', '--allow-offset')}` tries the nearest series with exact context; "
        f"`{situation.command('list')}` has the supported releases{port_hint(verdict, situation.manifest)}",
        str(situation.installation.root),
    )


def drift(situation: Situation) -> GaudiPatchError:
    """Return the error for files neither pristine nor patched, each with what RECORD says about it."""
    from gaudi_patch.disk import read_image
    from gaudi_patch.engine import record
    from gaudi_patch.engine.guard import Ground

    rows = {}
    installation = situation.installation
    bounds = Ground.of(installation).bounds
    if installation.record is not None and (image := read_image(installation.record, bounds)) is not None:
        names = {os.fsencode(file.path) for file in situation.files}
        rows = record.selected(image.data, names.__contains__)
    details = []
    for item in situation.files:
        if item.state is State.MISSING:
            details.append(f"missing: {item.path}")
        elif item.state is State.MODIFIED:
            file = read_image(installation.root / item.path, bounds)
            as_installed = file is not None and rows.get(item.path) == record.Entry.of(file.data)
            why = (
                "as recorded by its wheel: this is another build of the release"
                if as_installed
                else "edited since it was installed (or the installer's cache was: uv cache clean lmcache)"
            )
            if item.before is None and item.path not in rows:
                why = "not part of the release, and not created by the series"
            details.append(f"modified: {item.path} ({why})" if rows else f"modified: {item.path}")
    return GaudiPatchError(
        Exit.REFUSED,
        "drift",
        f"{len(details)} file(s) neither pristine nor patched; nothing was changed",
        next_step(situation),
        str(installation.root),
        details=details,
    )


def next_step(situation: Situation) -> str:
    """Return the next command for a state that is not patched; "" if there is nothing to do."""
    if situation.state is State.PRISTINE:
        return situation.command("apply")
    if situation.state is State.OUTDATED:
        update = f"`{situation.command('apply')}` updates it to the series of this gaudi-patch"
        unknown = [
            name
            for name in (situation.applied.patches if situation.applied else ())
            if name not in situation.manifest.patches
        ]
        if unknown:  # an older gaudi-patch had them, or a site has
            return (
                f"{update}; that removes {', '.join(unknown)}: if the patch is your own, give its manifest with "
                f"--manifest"
            )
        return update
    if situation.state is State.PARTIAL:
        return f"`{situation.command('apply')}` completes it, `{situation.command('rollback')}` reverts it"
    if situation.state in (State.MODIFIED, State.MISSING):
        root = situation.installation.root
        # No installer removes a file that no release contains, so reinstalling alone would not help.
        odd = [
            str(root / file.path) for file in situation.files if file.before is None and file.state is State.MODIFIED
        ]
        edited = (
            "save your changes elsewhere, since they are never overwritten; then "
            if situation.state is State.MODIFIED
            else ""
        )
        removal = f"`{shlex.join(['rm', *odd])}` and " if odd else ""
        return f"{edited}{removal}reinstall the release: `{reinstall(situation.installation)}`"
    return ""


def port_hint(verdict: Verdict, manifest: Manifest) -> str:
    """Return what maintainers do about a release unknown to the manifest; "" for an invalid version."""
    from packaging.version import InvalidVersion, Version

    try:
        Version(verdict.version or "0")
    except InvalidVersion:
        return ""
    ends = f"{verdict.nearest.id} {verdict.version}" if verdict.nearest and verdict.version else "OLD NEW"
    return f"; maintainers: gaudi-patch dev port {ends}{lock.option(manifest.directory)}"
