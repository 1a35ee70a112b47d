"""`check --against FILE`: does an installation still hold what an attestation says of it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaudi_patch.attestation import compare, file
from gaudi_patch.engine import describe
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Fields, Result, Table, Text
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target import packages
from gaudi_patch.target.installation import Installation


def check_against(manifest: Manifest, installation: Installation, path: Path) -> Result:
    """Compare with the attestation in ``path``. Exit 0 where all is as attested, 1 where not, 2 for a bad file.

    Changes nothing and works on read-only media.
    """
    attested = file.read(path)
    found = look(manifest, installation)
    differing = compare.differences(attested, found)
    result = Result("check", data=describe.data(found))
    result.warnings += installation.warnings
    result.data["against"] = {
        "path": str(path.resolve()),
        "sha256": attested["sha256"],
        "differences": [one._asdict() for one in differing],
    }
    result.blocks.append(Fields(_fields(attested, installation)))
    for one in compare.changed_packages(attested, packages.packages(installation)):
        result.warnings.append(f"{one.sentence()}: the attested smoke results are not of this version")
    if differing:
        rows = [(one.what, _short(one.attested), _short(one.found)) for one in differing]
        result.blocks.append(Table(("what", "attested", "found"), rows, "Not as attested"))
        result.exit = Exit.REFUSED
        result.errors = [_fault(path, differing)]
    else:
        files = len(attested["files"])
        text = f"as attested: version, series, and {files} file{'s' if files != 1 else ''} by their sha256"
        result.blocks.append(Text(text, "good"))
    return result


def _fields(attested: dict[str, Any], installation: Installation) -> list[tuple[str, str]]:
    series = attested["series"]
    return [
        ("attested", f"{attested['created']} by gaudi-patch {attested['tool']['version']}"),
        ("package", f"{attested['package']['name']} {attested['package']['version']}".rstrip()),
        ("series", series["id"] if series else "none needed"),
        ("smoke", f"{attested['smoke']['status']} ({attested['smoke']['reason']})"),
        ("found", f"{installation.package} {installation.version} in {installation.root}"),
    ]


def _short(text: str) -> str:
    """A hash as people compare it; the JSON has it whole."""
    first, space, rest = text.partition(" ")
    return f"{first[:12]}{space}{rest}" if len(first) == 64 else text


def _fault(path: Path, differing: list[compare.Difference]) -> GaudiPatchError:
    count = len(differing)
    return GaudiPatchError(
        Exit.REFUSED,
        "not-as-attested",
        f"{count} thing{'s are' if count != 1 else ' is'} not as attested; nothing was changed",
        "`gaudi-patch check` says what holds instead; `apply --report FILE` attests anew",
        str(path),
        details=[one.sentence() for one in differing],
    )
