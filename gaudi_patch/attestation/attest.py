"""`apply --report FILE`: apply and prove, then record the state on disk and the proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gaudi_patch import __version__
from gaudi_patch.attestation import document, file
from gaudi_patch.attestation.prove import Attested, ProvedApply, apply_and_prove
from gaudi_patch.disk import environment_error
from gaudi_patch.engine import layout
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.progress import Progress
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke import checks
from gaudi_patch.target import packages
from gaudi_patch.target.installation import Installation


def apply_and_attest(
    manifest: Manifest,
    installation: Installation,
    options: ApplyOptions,
    smoke: checks.SmokeOptions | None,
    path: Path,
    progress: Progress | None = None,
) -> ProvedApply:
    """Apply and prove; on success write the attestation to ``path``, even if nothing had to be done.

    A failed run writes no attestation and keeps an existing one. That describes an earlier run; `check --against`
    shows whether it still holds.
    """
    progress = Progress() if progress is None else progress
    target = file.destination(path)
    proved = apply_and_prove(manifest, installation, options, smoke, progress)
    if proved.exit is not Exit.OK:
        return replace(proved, warnings=(*proved.warnings, f"no attestation was written to {target}"))
    # Look again: the smoke checks ran in between, without the lock.
    situation = look(manifest, installation)
    try:
        attested = document.build(
            situation,
            changed=proved.changed,
            proof=document.Proof(proved.levels or (), proved.not_run),
            around=surroundings(installation),
            tool=__version__,
            stamp_ns=layout.stamp_ns(),
        )
    except ValueError as error:
        what = f"{error}: another run changed it in the meantime; no attestation was written"
        raise GaudiPatchError(Exit.REFUSED, "changed-meanwhile", what, "run the same command again") from error
    try:
        file.write(target, attested, options.disk)
    except OSError as error:
        holds = "no series is needed" if situation.state is None else "the series is applied"
        left = f"{holds}, but no attestation was written"
        raise environment_error(error, "writing the attestation", left) from error
    done = Attested(target, attested["sha256"], attested["smoke"]["reason"])
    return replace(proved, now=situation, attested=done)


def surroundings(installation: Installation) -> document.Surroundings:
    """Return the target's interpreter, as it reports itself, and the packages, from their metadata."""
    python = installation.python
    version = packages.python_version(python) if python is not None else None
    return document.Surroundings(str(python) if python else None, version, packages.packages(installation))
