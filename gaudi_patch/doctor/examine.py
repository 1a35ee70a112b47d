"""The examination of a host, a build and a configuration: one finding per check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.doctor import arguments, checks, vllm_config
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Finding, Level
from gaudi_patch.doctor.host import Host
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.search import Target


@dataclass(frozen=True)
class Examination:
    """The findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Return the findings of one level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    @property
    def count(self) -> Mapping[Level, int]:
        """Return the number of findings of each level."""
        return {level: len(self.of(level)) for level in Level}


def examine(
    manifest: Manifest,
    target: Target,
    *,
    config: Path | None = None,
    vllm_args: str | None = None,
    host: Host | None = None,
) -> Examination:
    """Run every check.

    ``config`` is LMCache's configuration file, and ``vllm_args`` is vLLM's command line as one string; both are
    optional. Raises a usage error for a missing file, or for a target that cannot be one.
    """
    if config is not None and not config.is_file():
        hint = "pass the file that LMCACHE_CONFIG_FILE will name"
        raise GaudiPatchError(Exit.USAGE, "usage", f"--config {config}: no such file", hint)
    host = host or (Host() if target.root is None else Host(target.root, running=False))
    line = None if vllm_args is None else arguments.parse(vllm_args)
    case = vllm_config.with_file(Case(host, target, manifest, line, config.absolute() if config else None))
    return Examination(tuple(checks.run(case)))
