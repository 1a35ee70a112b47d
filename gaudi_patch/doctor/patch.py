"""Checks of LMCache itself and of the state of the patch, as `gaudi-patch check` reports it."""

from __future__ import annotations

from gaudi_patch.doctor.case import NOT_FOUND, Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown
from gaudi_patch.engine import verdicts
from gaudi_patch.engine.plan import State
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.series.manifest import Kind


@check(
    "patch.installation",
    "one LMCache, the one that Python imports",
    why="with two copies, or one that another path shadows, the patch could go into one that is never imported",
    source="`gaudi-patch check --help`",
)
def installation(case: Case) -> Answer:
    lmcache = case.lmcache
    if not isinstance(lmcache, GaudiPatchError):
        return ok(f"LMCache {lmcache.version or 'of unknown version'} in {lmcache.root}")
    if lmcache.code == "not-installed" or case.installed.problem:
        return unknown(lmcache.message, lmcache.hint)
    return failure(lmcache.message, lmcache.hint)


@check(
    "patch.series",
    "a series of patches for this LMCache",
    why="releases up to 0.4.2 do not support the HPU, 0.4.3 and 0.4.4 crash, later ones overwrite shared blocks",
    source="https://github.com/LMCache/LMCache/pull/2822; `gaudi-patch list`",
)
def series(case: Case) -> Answer:
    lmcache = case.lmcache
    if isinstance(lmcache, GaudiPatchError):
        return unknown(NOT_FOUND)
    if not lmcache.version:
        return unknown("a git checkout is matched by its files: see patch.state")
    verdict = case.manifest.verdict(lmcache.version)
    if verdict.kind is Kind.SERIES and verdict.series is not None:
        return ok(f"series {verdict.series.id}")
    if verdict.kind is Kind.UPSTREAM:
        return ok(f"none needed: {verdict.reason}")
    what = verdict.reason or f"the manifest has no series for LMCache {lmcache.version}"
    fix = verdict.advice or f"see `{case.command('list')}`; a newer gaudi-patch may have it"
    return failure(what, fix)


@check(
    "patch.state",
    "every file is patched, by its hash",
    why="an unpatched LMCache on Gaudi crashes or overwrites blocks that vLLM shares between requests",
    source=lambda case: f"`{_explanation(case)}`",
)
def state(case: Case) -> Answer:
    situation = case.situation
    if isinstance(case.lmcache, GaudiPatchError):
        return unknown(NOT_FOUND)
    if isinstance(situation, GaudiPatchError):
        return failure(situation.message, situation.hint)
    fault = verdicts.fault_of(situation)
    if fault is None and situation.state in (State.PRISTINE, State.OUTDATED):
        if situation.series is not None:
            what = f"not patched: LMCache {situation.installation.version} is {situation.state.value}"
            return failure(what, case.command("apply"))
        fault = verdicts.unknown_version(situation)
    if fault is not None:
        return failure(fault.message, fault.hint)
    if situation.state is State.PATCHED and (stale := verdicts.stale_bytecode(situation)):
        return failure(
            f"patched, but Python would run other bytecode: {', '.join(map(str, stale))}", case.command("apply")
        )
    if situation.built is not None:
        return ok(f"patched when the wheel was built, series {situation.built.series}")
    applied = situation.applied.series if situation.applied else situation.series.id if situation.series else None
    return ok(f"patched, series {applied}" if situation.state and applied else "nothing to patch")


def _explanation(case: Case) -> str:
    """Return the command that explains the patches: of the installed release, else of the newest with a series."""
    version = "" if isinstance(case.lmcache, GaudiPatchError) else case.lmcache.version or ""
    series = case.manifest.verdict(version).series if version else None
    names = [one.id for one in (series, *case.manifest.series) if one]
    return case.command("show", names[0]) if names else case.command("list")


CHECKS = (installation, series, state)
