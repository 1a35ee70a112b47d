"""`check`: what is installed, which series, the state of each file, would it apply. Changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gaudi_patch.engine import describe
from gaudi_patch.engine.plan import State, refuse_compiled
from gaudi_patch.engine.situation import Situation, look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Text
from gaudi_patch.series.manifest import Kind, Manifest
from gaudi_patch.target.installation import Installation

if TYPE_CHECKING:
    from gaudi_patch.engine.bytecode_check import Wrong

EXITS = {
    State.PATCHED: Exit.OK,
    State.PRISTINE: Exit.PENDING,
    State.OUTDATED: Exit.PENDING,
    State.PARTIAL: Exit.REFUSED,
    State.MODIFIED: Exit.REFUSED,
    State.MISSING: Exit.REFUSED,
}


def check(manifest: Manifest, installation: Installation) -> Result:
    """Report the situation. Exit 0 patched (or nothing to do), 10 a series would apply, 1 drift, 3 no series."""
    found, fault = settled(manifest, installation)
    result = Result("check", data=describe.data(found), blocks=describe.blocks(found))
    result.warnings += installation.warnings
    fault = fault or fault_of(found)
    if fault is not None:
        result.exit, result.errors = fault.exit, [fault]
        return result
    if found.state is None:  # upstream has it
        result.blocks.append(Text(f"nothing to do: {found.verdict.reason}", "good"))
        return result
    result.exit = EXITS[found.state]
    if found.state in (State.PRISTINE, State.OUTDATED):
        if found.series is None:  # applied once, put back by hand since, and no longer in the manifest
            result.errors = [unknown_version(found)]
            result.exit = result.errors[0].exit
            return result
        refuse_compiled(installation.root, [one.path for one in found.files])
        for name in found.series.patches:
            manifest.patch_bytes(name)  # held against the lock: with pristine files, it applies by construction
        result.blocks.append(Text(f"next: {describe.NEXT[found.state]}", "next"))
    elif found.state is State.PATCHED:
        if old := stale_bytecode(found):
            result.exit, result.errors = Exit.REFUSED, [hidden(old)]
            return result
        result.blocks.append(Text("patched: every file has the hash that the series gives it", "good"))
        if found.applied is None:
            result.warnings.append("patched by something else than gaudi-patch: there is no state, but rollback works")
        elif found.series is None:
            result.warnings.append(f"series {found.applied.series} is applied, but the manifest no longer has it")
    return result


def stale_bytecode(found: Situation) -> list[Wrong]:
    """Return the bytecode that Python would run in place of the patched sources, each with what is wrong with it."""
    from gaudi_patch.engine.bytecode_check import recorded, wrong

    names = [one.path for one in found.files]
    return wrong(found.installation, names, recorded(found.installation, found.applied))


def hidden(old: list[Wrong]) -> GaudiPatchError:
    """Return the error for patched sources that Python would not run."""
    return GaudiPatchError(
        Exit.REFUSED,
        "stale-bytecode",
        "every source is patched, but Python would run cached bytecode that is not theirs; nothing was changed",
        "gaudi-patch apply removes it",
        str(old[0].path),
        details=[str(one) for one in old],
    )


def settled(manifest: Manifest, installation: Installation) -> tuple[Situation, GaudiPatchError | None]:
    """Look as one who takes no lock: what is half-done is read again while writers are kept out.

    Returns the situation, and ``locked`` or ``interrupted`` where a journal is there: of a writer at work, or of
    a run that was killed.
    """
    found = look(manifest, installation)
    if found.interrupted is None and found.state not in (State.PARTIAL, State.MODIFIED, State.MISSING):
        return found, None
    from gaudi_patch.engine.locking import locked, no_writer

    folder = installation.state_dir.parent
    with no_writer(folder) as writer:
        found = look(manifest, installation)
    if found.interrupted is None:
        return found, None
    return found, locked(folder, holder=writer) if writer is not None else interrupted(found)


def interrupted(found: Situation) -> GaudiPatchError:
    """Return the error for a killed run's journal: neither side holds until the next apply or rollback."""
    assert found.interrupted is not None
    return GaudiPatchError(
        Exit.REFUSED,
        "interrupted",
        f"an interrupted {found.interrupted.verb} left its journal; files may be on both sides",
        "run any apply or rollback: it puts everything back first",
        str(found.installation.state_dir),
    )


def fault_of(found: Situation) -> GaudiPatchError | None:
    """Why neither apply nor rollback could go on from here, None when they can."""
    verdict, installation = found.verdict, found.installation
    if found.applied is None and verdict.kind is Kind.REFUSED:
        return GaudiPatchError(
            Exit.NOT_FOUND, "refused-version", f"LMCache {verdict.version} is refused: {verdict.reason}", verdict.advice
        )
    if found.applied is None and verdict.kind is Kind.UNKNOWN:
        return unknown_version(found)
    if found.state in (State.MODIFIED, State.MISSING):
        return drift(found)
    if found.state is State.PARTIAL:
        names = [f"{one.state.value}: {one.path}" for one in found.files]
        return GaudiPatchError(
            Exit.REFUSED,
            "partial",
            "some files are patched and some are pristine; something else than gaudi-patch did that",
            describe.NEXT[State.PARTIAL],
            str(installation.root),
            details=names,
        )
    return None


def unknown_version(found: Situation) -> GaudiPatchError:
    """The manifest does not know this version, and no series fits its files by hash."""
    verdict = found.verdict
    version = verdict.version or "of unknown version"
    nearest = f"; the nearest series is {verdict.nearest.id}" if verdict.nearest else ""
    return GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for LMCache {version}{nearest}; nothing was changed",
        "see `gaudi-patch list` for the supported releases; `apply --allow-offset` tries the nearest series with exact "
        f"context{describe.port_hint(verdict)}",
        str(found.installation.root),
    )


def drift(found: Situation) -> GaudiPatchError:
    """Files that are neither pristine nor patched, named one by one with what RECORD says of them."""
    from gaudi_patch.disk import read_image
    from gaudi_patch.engine import record

    rows = {}
    installation = found.installation
    if installation.record is not None and (image := read_image(installation.record)) is not None:
        names = {os.fsencode(file.path) for file in found.files}
        rows = record.selected(image.data, names.__contains__)
    details = []
    for one in found.files:
        if one.state is State.MISSING:
            details.append(f"missing: {one.path}")
        elif one.state is State.MODIFIED:
            file = read_image(installation.root / one.path)
            as_installed = file is not None and rows.get(one.path) == record.Entry.of(file.data)
            why = (
                "as the wheel recorded it: this is another build of the release"
                if as_installed
                else "edited since it was installed (or the installer's cache was: uv cache clean lmcache)"
            )
            details.append(f"modified: {one.path} ({why})" if rows else f"modified: {one.path}")
    return GaudiPatchError(
        Exit.REFUSED,
        "drift",
        f"{len(details)} file(s) neither pristine nor patched; nothing was changed",
        describe.NEXT[State.MODIFIED],
        str(installation.root),
        details=details,
    )
