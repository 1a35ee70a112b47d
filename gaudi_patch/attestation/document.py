"""Build the attestation from the state on disk and the proof. Reads nothing itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gaudi_patch.attestation.fields import (
    Attestation,
    CapabilityField,
    FileField,
    LevelField,
    PatchField,
    SeriesField,
    SmokeField,
)
from gaudi_patch.disk import sha256
from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.series.manifest import Capability, Kind, Manifest
from gaudi_patch.smoke.counted import Counters
from gaudi_patch.smoke.outcome import LevelResult

ID = "urn:gaudi-patch:attestation:1"
VERSION = 1


class Proof(NamedTuple):
    """The results of the smoke checks: the levels, or the reason why none was run."""

    levels: Sequence[LevelResult] = ()
    not_run: str = ""


class Surroundings(NamedTuple):
    """The surroundings of LMCache: the interpreter and the other packages."""

    python: str | None
    python_version: str | None
    packages: Mapping[str, str | None]


def build(
    situation: Situation, *, changed: bool, proof: Proof, around: Surroundings, tool: str, stamp_ns: int
) -> Attestation:
    """Return the attestation of a situation in which every file is patched, or none needs a patch.

    ``changed``: this run applied the series, or built it into a wheel. Raises ValueError for any other situation,
    which has nothing to attest.
    """
    needed = situation.state is State.PATCHED
    built = situation.built
    outcome = "already-applied" if needed else "not-needed"
    if changed and needed:
        outcome = "built" if built is not None else "applied"
    if situation.interrupted is not None or not (needed or situation.verdict.kind is Kind.UPSTREAM):
        raise ValueError(f"cannot attest an installation that is {situation.state}, {situation.verdict.kind}")
    installation = situation.installation
    document: Attestation = {
        "schema": ID,
        "schema_version": VERSION,
        "sha256": "",
        "tool": {"name": "gaudi-patch", "version": tool},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp_ns // 1_000_000_000)),
        "outcome": outcome,
        "package": {
            "name": installation.package,
            "version": installation.version,
            "layout": installation.layout.value,
            "root": str(installation.root),
        },
        "series": _series(situation) if needed else None,
        "patches": _patches(situation) if needed else [],
        "files": [_file(file) for file in situation.files],
        "capabilities": _capabilities(situation) if needed else [],
        "smoke": _smoke(proof),
        "interpreter": (
            {"executable": around.python, "version": around.python_version}
            if around.python and around.python_version
            else None
        ),
        "packages": dict(around.packages),
    }
    if built is not None:
        document["release"] = {"version": built.release, "wheel": built.wheel, "sha256": built.wheel_sha256}
    document["sha256"] = digest(document)
    return document


def with_proof(document: Attestation, proof: Proof) -> Attestation:
    """Return the attestation with its smoke results replaced."""
    proved: Attestation = {**document, "smoke": _smoke(proof)}
    proved["sha256"] = digest(proved)
    return proved


def digest(document: Mapping[str, Any]) -> str:
    """Return the sha256 that a document must carry; schema.json defines its input."""
    content = {name: value for name, value in document.items() if name != "sha256"}
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def _series(situation: Situation) -> SeriesField:
    applied, built, name = situation.applied, situation.built, series_id(situation)
    assert name is not None  # called for patched installations only
    offset = applied is not None and applied.offset
    return {
        "id": name,
        "matched_by": "offset" if offset else "hashes" if situation.by_hash else "version",
        "applied_at": applied.applied_at if applied else built.built_at if built else None,
        "applied_by": applied.tool if applied else built.tool if built else None,
    }


def series_id(situation: Situation) -> str | None:
    """Return the series whose patched files are installed: by state.json or the wheel, else by the manifest."""
    if (known := situation.applied or situation.built) is not None:
        return known.series
    return situation.series.id if situation.series is not None and situation.state is State.PATCHED else None


def _patches(situation: Situation) -> list[PatchField]:
    return [
        {
            "name": name,
            "sha256": digest,
            "why": situation.manifest.patches[name].why if name in situation.manifest.patches else "",
            "upstream": situation.manifest.patches[name].upstream if name in situation.manifest.patches else "",
        }
        for name, digest in patch_digests(situation).items()
    ]


def patch_digests(situation: Situation) -> dict[str, str]:
    """Return the sha256 of each applied patch, by name, in order."""
    order = situation.series.patches if situation.series is not None else ()
    if (there := situation.applied or situation.built) is not None:
        done = there.patches  # state.json keeps them sorted
        known = [name for name in order if name in done]
        return {name: done[name] for name in [*known, *(name for name in done if name not in order)]}
    return {name: situation.manifest.patches[name].sha256 for name in order}


def _file(file: FileState) -> FileField:
    action = "create" if file.before is None else "delete" if file.after is None else "modify"
    return {"path": file.path, "action": action, "before": file.before, "after": file.current}


def _capabilities(situation: Situation) -> list[CapabilityField]:
    known = situation.applied or situation.built
    names = known.capabilities if known else situation.series.capabilities if situation.series else ()
    return [_capability(situation.manifest, name) for name in names]


def _capability(manifest: Manifest, name: str) -> CapabilityField:
    about = manifest.capabilities.get(name) or Capability(name, "")
    return {"id": name, "summary": about.summary, "evidence": about.evidence}


def _smoke(proof: Proof) -> SmokeField:
    levels: list[LevelField] = [
        {
            "level": level.level,
            "rules": level.rules,
            "status": level.status,
            "device": level.device,
            "checks": level.checks,
            "reason": level.reason,
            "seconds": round(level.seconds, 3),
            "counters": _numbers(level.counters),
        }
        for level in proof.levels
    ]
    passed = sorted({level.level for level in proof.levels if level.status == "passed"})
    skipped = sorted({level.level for level in proof.levels if level.status == "skipped"})
    if passed:
        reason = f"passed: {', '.join(passed)}" + (f"; skipped: {', '.join(skipped)}" if skipped else "")
        return {"status": "passed", "reason": reason, "levels": levels}
    reason = proof.not_run or f"every level was skipped: {', '.join(skipped) or 'none was asked for'}"
    return {"status": "not-run", "reason": reason, "levels": levels}


def _numbers(counters: Counters) -> dict[str, int | dict[str, int]]:
    """Return the numeric counters, plain or by workload, in the order of the result."""
    return {
        name: dict(counters.workloads[name]) if name in counters.workloads else counters.totals[name]
        for name in counters.document
        if name in counters.workloads or name in counters.totals
    }
