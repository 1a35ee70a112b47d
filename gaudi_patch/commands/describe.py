"""A situation in words and in JSON: shared by the commands that report one."""

from __future__ import annotations

from typing import Any

from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.output.report import Block, Fields, Table
from gaudi_patch.output.wrapping import Whole
from gaudi_patch.series.manifest import Kind, Verdict


def data(found: Situation) -> dict[str, Any]:
    """Return the JSON of a situation: absolute paths, full hashes."""
    installation = found.installation
    return {
        "package": installation.package,
        "version": installation.version,
        "root": str(installation.root),
        "layout": installation.layout.value,
        "python": str(installation.python) if installation.python else None,
        "chosen_because": installation.how,
        "verdict": found.verdict.kind.value,
        "series": found.series.id if found.series else None,
        "matched_by_hash": found.by_hash,
        "capabilities": list(found.series.capabilities) if found.series else [],
        "applied_series": found.applied.series if found.applied else None,
        "applied_at": found.applied.applied_at if found.applied else None,
        "built": _built(found),
        "interrupted": found.interrupted.verb if found.interrupted else None,
        "unproved": found.applied is not None and found.applied.unproved,
        "state": found.state.value if found.state else None,
        "files": [
            {
                "path": file.path,
                "state": file.state.value,
                "pre_sha256": file.before,
                "post_sha256": file.after,
                "current_sha256": file.current,
            }
            for file in found.files
        ],
    }


def blocks(found: Situation) -> list[Block]:
    """Return the same for people."""
    installation = found.installation
    version = installation.version or "of unknown version"
    rows = [
        (installation.package, Whole(f"{version} in {installation.root}")),
        ("chosen", installation.how),
        ("series", series_text(found)),
    ]
    if found.series and found.series.capabilities:
        rows.append(("brings", ", ".join(found.series.capabilities)))
    if found.applied:
        rows.append(("applied", f"series {found.applied.series} at {found.applied.applied_at}"))
    if found.built:
        rows.append(("built", f"series {found.built.series} into the wheel of {found.built.release}"))
    if found.state:
        rows.append(("state", found.state.value))
    listed: list[Block] = [Fields(rows)]
    if found.files:
        listed.append(
            Table(("state", "file"), [(file.state.value, _file(file)) for file in found.files], state_column=0)
        )
    return listed


def _built(found: Situation) -> dict[str, Any] | None:
    """Return what was patched when its wheel was built; None for any other installation."""
    built = found.built
    if built is None:
        return None
    return {
        "series": built.series,
        "release": built.release,
        "wheel": built.wheel,
        "wheel_sha256": built.wheel_sha256,
        "built_by": built.tool,
    }


def _file(file: FileState) -> str:
    new = file.state is State.PRISTINE and file.before is None
    return f"{file.path} (missing, will be added)" if new else file.path


def series_text(found: Situation) -> str:
    verdict = found.verdict
    if verdict.kind is Kind.SERIES and found.series:
        count = len(found.series.patches)
        how = ", matched by file hashes" if found.by_hash else ""
        return f"{found.series.id} ({count} patch{'es' if count != 1 else ''}{how})"
    if verdict.kind is Kind.UPSTREAM:
        return f"none needed: {verdict.reason}"
    if verdict.kind is Kind.REFUSED:
        return f"none, refused: {verdict.reason}"
    return unknown_text(verdict)


def unknown_text(verdict: Verdict) -> str:
    nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
    return f"none for this version{nearest}"
