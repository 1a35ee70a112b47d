"""An attestation as an in-toto statement, with a predicate of this project modelled on SLSA's provenance.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md. The predicate's schema is
``predicate.schema.json``, printed by `gaudi-patch attest --schema predicate`.
"""

from __future__ import annotations

from typing import Any

from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.errors import Exit, GaudiPatchError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:gaudi-patch:predicate:patched-package:1"
BUILD = "urn:gaudi-patch:build:series:1"
SUFFIX = ".intoto.json"


def statement(attested: Attestation, artifact: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return the statement of an attestation.

    Its subject is the wheel ``artifact`` (file name and sha256) if given, else the patched files on disk. Raises
    ``nothing-to-state`` (exit 2) if the release needs no patch, since there is no subject then.
    """
    subjects = (
        [artifact] if artifact else [(file["path"], file["after"]) for file in attested["files"] if file["after"]]
    )
    if not subjects:
        raise GaudiPatchError(
            Exit.USAGE,
            "nothing-to-state",
            "the attestation names no patched file, so an in-toto statement would have no subject",
            "the release needs no patch: keep the attestation itself",
        )
    package, release, series = attested["package"], attested.get("release"), attested["series"]
    materials: list[dict[str, Any]] = [
        {"name": f"patch/{patch['name']}", "digest": {"sha256": patch["sha256"]}} for patch in attested["patches"]
    ]
    if release is not None:
        materials.insert(0, {"name": release["wheel"], "digest": {"sha256": release["sha256"]}})
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {
                    "package": package["name"],
                    "version": release["version"] if release else package["version"],
                    "series": series["id"] if series else None,
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": "urn:gaudi-patch", "version": {"gaudi-patch": attested["tool"]["version"]}},
                "metadata": {"finishedOn": attested["created"]},
            },
            "attestation": dict(attested),
        },
    }
