"""Describe a situation in text and JSON, for the commands that report one."""

from __future__ import annotations

from typing import Any

from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.output.report import Block, Fields, Table
from gaudi_patch.output.wrapping import Whole
from gaudi_patch.series.manifest import Kind, Verdict


def data(situation: Situation) -> dict[str, Any]:
    """Return the JSON of a situation: absolute paths, full hashes."""
    installation = situation.installation
    return {
        "package": installation.package,
        "version": installation.version,
        "root": str(installation.root),
        "layout": installation.layout.value,
        "python": str(installation.python) if installation.python else None,
        "chosen_because": installation.how,
        "verdict": situation.verdict.kind.value,
        "series": situation.series.id if situation.series else None,
        "matched_by_hash": situation.by_hash,
        "capabilities": list(situation.series.capabilities) if situation.series else [],
        "applied_series": situation.applied.series if situation.applied else None,
        "applied_at": situation.applied.applied_at if situation.applied else None,
        "built": _built(situation),
        "interrupted": situation.interrupted.verb if situation.interrupted else None,
        "unproved": situation.applied is not None and situation.applied.unproved,
        "state": situation.state.value if situation.state else None,
        "files": [
            {
                "path": file.path,
                "state": file.state.value,
                "pre_sha256": file.before,
                "post_sha256": file.after,
                "current_sha256": file.current,
            }
            for file in situation.files
        ],
    }


def blocks(situation: Situation) -> list[Block]:
    """Return the situation as blocks of text."""
    installation = situation.installation
    version = installation.version or "of unknown version"
    rows = [
        (installation.package, Whole(f"{version} in {installation.root}")),
        ("chosen", installation.how),
        ("series", series_text(situation)),
    ]
    if situation.series and situation.series.capabilities:
        rows.append(("brings", ", ".join(situation.series.capabilities)))
    if situation.applied:
        rows.append(("applied", f"series {situation.applied.series} at {situation.applied.applied_at}"))
    if situation.built:
        rows.append(("built", f"series {situation.built.series} into the wheel of {situation.built.release}"))
    if situation.state:
        rows.append(("state", situation.state.value))
    listed: list[Block] = [Fields(rows)]
    if situation.files:
        listed.append(
            Table(("state", "file"), [(file.state.value, _file(file)) for file in situation.files], state_column=0)
        )
    return listed


def _built(situation: Situation) -> dict[str, Any] | None:
    """Return the series that was applied when the wheel was built; None for other installations."""
    built = situation.built
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


def series_text(situation: Situation) -> str:
    verdict = situation.verdict
    if verdict.kind is Kind.SERIES and situation.series:
        count = len(situation.series.patches)
        how = ", matched by file hashes" if situation.by_hash else ""
        return f"{situation.series.id} ({count} patch{'es' if count != 1 else ''}{how})"
    if verdict.kind is Kind.UPSTREAM:
        return f"none needed: {verdict.reason}"
    if verdict.kind is Kind.REFUSED:
        return f"none, refused: {verdict.reason}"
    return unknown_text(verdict)


def unknown_text(verdict: Verdict) -> str:
    nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
    return f"none for this version{nearest}"
