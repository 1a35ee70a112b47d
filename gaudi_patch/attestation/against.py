"""`check --against FILE`: compare an installation with its attestation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.attestation import compare, file
from gaudi_patch.engine.situation import Situation
from gaudi_patch.engine.verdicts import settled
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest, default_directory
from gaudi_patch.target import packages
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.invocation import command_line

#: Limit of the differences named in the error; the table of -v and the JSON have all.
_MOST = 6


@dataclass(frozen=True)
class Comparison:
    """The result of comparing an installation with its attestation.

    ``packages``: other packages whose version has changed since; the attested smoke results do not cover the new one.
    """

    path: Path
    situation: Situation
    created: str
    tool: str
    package: str
    series: str
    smoke: str
    files: int
    sha256: str
    differences: tuple[compare.Difference, ...]
    packages: tuple[compare.Difference, ...]
    #: The trusted comment of the signature that was verified; "" without a key.
    signed: str = ""

    @property
    def fault(self) -> GaudiPatchError | None:
        """Return the differences as an error; None if there are none."""
        if not self.differences:
            return None
        count = len(self.differences)
        check = self.situation.command("check")
        attest = self.situation.command("apply", "--report", str(self.path.absolute()))
        return GaudiPatchError(
            Exit.REFUSED,
            "not-as-attested",
            f"{count} difference{'s' if count != 1 else ''} from the attestation; nothing was changed",
            f"`{check}` shows the present state; `{attest}` writes a new attestation",
            str(self.path),
            details=self._said(),
        )

    def _said(self) -> list[str]:
        """Return at most ``_MOST`` sentences, since an installer can change every file at once."""
        few = self.differences if len(self.differences) <= _MOST else self.differences[: _MOST - 1]
        more = len(self.differences) - len(few)
        return [
            *(difference.sentence() for difference in few),
            *([f"and {more} more: -v shows them"] if more else []),
        ]


def compare_with(manifest: Manifest, installation: Installation, path: Path, key: Path | None = None) -> Comparison:
    """Compare an installation with the attestation in ``path``; verify its signature by ``key``, if given.

    Changes nothing and works on read-only media.

    Raises ``bad-attestation`` (exit 2) if the file is not an attestation, ``unsigned`` and ``bad-signature`` (exit 1),
    ``locked`` (exit 4) during another run.
    """
    directory = None if manifest.directory == default_directory() else manifest.directory
    report = ("--report", str(path.absolute()))
    anew = command_line("apply", *report, target=installation.target, manifest=directory)
    attested, signed = file.read_signed(path, key, anew)
    situation, fault = settled(manifest, installation)
    if fault is not None and fault.code == "locked":
        raise fault
    series = attested["series"]
    return Comparison(
        path=path,
        situation=situation,
        created=attested["created"],
        tool=attested["tool"]["version"],
        package=f"{attested['package']['name']} {attested['package']['version']}".rstrip(),
        series=series["id"] if series else "none needed",
        smoke=f"{attested['smoke']['status']} ({attested['smoke']['reason']})",
        files=len(attested["files"]),
        sha256=attested["sha256"],
        differences=tuple(compare.differences(attested, situation)),
        packages=tuple(compare.changed_packages(attested, packages.packages(installation))),
        signed=signed,
    )
