"""`apply --report FILE`: apply, then write down what is on disk and what was proved."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch import __version__
from gaudi_patch.attestation import document, file
from gaudi_patch.disk import environment_error
from gaudi_patch.engine import layout
from gaudi_patch.engine.apply import Options, apply
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Text
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target import packages
from gaudi_patch.target.installation import Installation


def apply_and_attest(manifest: Manifest, installation: Installation, options: Options, path: Path) -> Result:
    """Apply as told by ``options``; on success write the attestation to ``path``.

    It is also written where nothing had to be done. A run that fails writes none, and leaves one that is there: it
    speaks of the run before, and `check --against` says whether it still holds.
    """
    target = file.destination(path)
    result = apply(manifest, installation, options)
    if result.exit is not Exit.OK:
        result.warnings.append(f"no attestation was written to {target}")
        return result
    # Looked at once more: the smoke checks ran since, and nothing held the lock.
    found = look(manifest, installation)
    try:
        attested = document.build(
            found,
            changed=result.data["changed"],
            proof=_proof(result, options),
            around=surroundings(installation),
            tool=__version__,
            stamp_ns=layout.stamp_ns(),
        )
    except ValueError as error:
        what = f"{error}: another run has changed it meanwhile; no attestation was written"
        raise GaudiPatchError(Exit.REFUSED, "changed-meanwhile", what, "run the same command again") from error
    try:
        file.write(target, attested, options.disk)
    except OSError as error:
        left = "the series is applied, but no attestation was written"
        raise environment_error(error, "writing the attestation", left) from error
    result.data["report"] = {"path": str(target), "sha256": attested["sha256"]}
    result.blocks.append(Text(f"attested in {target} (smoke checks: {attested['smoke']['reason']})", "good"))
    return result


def surroundings(installation: Installation) -> document.Surroundings:
    """What the target runs with, asked of its interpreter and of the metadata."""
    python = installation.python
    version = packages.python_version(python) if python is not None else None
    return document.Surroundings(str(python) if python else None, version, packages.packages(installation))


def _proof(result: Result, options: Options) -> document.Proof:
    if "smoke" in result.data:
        return document.Proof(levels=result.data["smoke"])
    if not result.data["changed"]:
        return document.Proof(not_run="nothing was changed, and no level was required")
    if options.smoke is None:
        return document.Proof(not_run="--no-smoke")
    return document.Proof(not_run="no interpreter of the target can be run")
