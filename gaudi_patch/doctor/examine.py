"""`doctor`: the host, the build and the configuration; each finding with why it matters, a fix and its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.doctor import arguments, checks, vllm_config
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Finding, Level
from gaudi_patch.doctor.host import Host
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Fields, Result, Table, Text
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.search import Target


class Options(NamedTuple):
    """What to look at beside the host: LMCache's configuration file and vLLM's command line, where there are."""

    config: Path | None = None
    vllm_args: str | None = None


def doctor(manifest: Manifest, target: Target, options: Options, host: Host | None = None) -> Result:
    """Run every check. Exit 4 (environment) where one failed, 0 otherwise: warnings and unknowns fail nothing."""
    if options.config is not None and not options.config.is_file():
        hint = "give the file that LMCACHE_CONFIG_FILE is to name"
        raise GaudiPatchError(Exit.USAGE, "usage", f"--config {options.config}: there is no such file", hint)
    host = host or (Host() if target.root is None else Host(target.root, running=False))
    line = None if options.vllm_args is None else arguments.parse(options.vllm_args)
    config = options.config.absolute() if options.config else None
    findings = checks.run(vllm_config.with_file(Case(host, target, manifest, line, config)))
    count = {level.value: sum(one.level is level for one in findings) for level in Level}
    result = Result(
        "doctor", data={"findings": [_data(one) for one in findings], "count": count}, blocks=_blocks(findings)
    )
    result.errors = [_error(one) for one in findings if one.level is Level.FAILURE]
    if result.errors:
        result.exit = Exit.ENVIRONMENT
    plural = {"warning": "warnings", "failure": "failures"}
    words = ", ".join(f"{n} {name if n == 1 else plural.get(name, name)}" for name, n in count.items() if n)
    result.blocks.append(Text(words, "bad" if result.errors else "good"))
    return result


def _data(finding: Finding) -> dict[str, str]:
    return {**finding._asdict(), "level": finding.level.value}


def _error(finding: Finding) -> GaudiPatchError:
    """A failure as the other verbs tell one: on stderr, and as an annotation."""
    details = [f"why: {finding.why}", f"source: {finding.source}"]
    return GaudiPatchError(Exit.ENVIRONMENT, finding.id, f"{finding.id}: {finding.what}", finding.fix, details=details)


def _blocks(findings: Sequence[Finding]) -> list[Block]:
    """All that was found in one table, what is unknown for one reason in one row; then the warnings in full."""
    seen = [one for one in findings if one.level is not Level.UNKNOWN]
    listed: list[Block] = [
        Table(("level", "check", "found"), [(one.level.value, one.id, one.what) for one in seen], state_column=0)
    ]
    reasons: dict[str, list[str]] = {}
    for one in findings:
        if one.level is Level.UNKNOWN:
            reasons.setdefault("; ".join(part for part in (one.what, one.fix) if part), []).append(one.id)
    if reasons:
        rows = [(reason, ", ".join(names)) for reason, names in reasons.items()]
        listed.append(Table(("unknown, and what would tell", "check"), rows))
    for one in findings:
        if one.level is Level.WARNING:
            listed.append(Text(f"\nwarning: {one.id}: {one.what}", "next"))
            listed.append(Fields([("why", one.why), ("fix", one.fix), ("source", one.source)]))
    return listed
