"""An attestation as a CycloneDX 1.6 document: one component, its pedigree, and the patches between it and its ancestor.

https://cyclonedx.org/docs/1.6/json/#components_items_pedigree_patches. The diffs are named by their sha256, as in
`gaudi-patch show VERSION`.
"""

from __future__ import annotations

import uuid
from typing import Any

from gaudi_patch.attestation.fields import Attestation, PatchField, Release

#: Suffix of the file beside a wheel, CycloneDX's usual one.
SUFFIX = ".cdx.json"


def document(attested: Attestation, artifact: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return an attestation as a CycloneDX document; ``artifact``: file name and sha256 of the wheel described.

    The same attestation gives the same document, including the serial number.
    """
    package, series, release = attested["package"], attested["series"], attested.get("release")
    name, version = package["name"], package["version"]
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "purl": _purl(name, version),
        "properties": _properties(attested),
    }
    if artifact is not None:
        component["hashes"] = [_hash(artifact[1])]
    if series is not None:
        component["pedigree"] = _pedigree(attested, series["id"], release)
    files = [(file["path"], file["after"]) for file in attested["files"] if file["after"] is not None]
    if files:
        component["components"] = [{"type": "file", "name": path, "hashes": [_hash(digest)]} for path, digest in files]
    tool = attested["tool"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, attested['sha256'] + (artifact or ('', ''))[1])}",
        "version": 1,
        "metadata": {
            "timestamp": attested["created"],
            "tools": {"components": [{"type": "application", "name": tool["name"], "version": tool["version"]}]},
        },
        "components": [component],
    }


def _pedigree(attested: Attestation, series: str, release: Release | None) -> dict[str, Any]:
    package = attested["package"]
    version = release["version"] if release else package["version"]
    ancestor: dict[str, Any] = {
        "type": "library",
        "name": package["name"],
        "version": version,
        "purl": _purl(package["name"], version),
    }
    if release is not None:
        ancestor["hashes"] = [_hash(release["sha256"])]
    return {
        "ancestors": [ancestor],
        "patches": [_patch(patch) for patch in attested["patches"]],
        "notes": f"series {series} of gaudi-patch {attested['tool']['version']}",
    }


def _patch(patch: PatchField) -> dict[str, Any]:
    issue: dict[str, Any] = {"type": "enhancement", "id": patch["name"]}
    if patch["why"]:
        issue["description"] = patch["why"]
    urls = [word.rstrip(".,;)") for word in patch["upstream"].split() if word.startswith("https://")]
    if urls:
        issue["references"] = urls
    return {
        "type": "unofficial",
        "diff": {"url": f"urn:gaudi-patch:diff:sha256:{patch['sha256']}"},
        "resolves": [issue],
    }


def _properties(attested: Attestation) -> list[dict[str, str]]:
    values = {
        "gaudi-patch:attestation": attested["sha256"],
        "gaudi-patch:outcome": attested["outcome"],
        "gaudi-patch:series": attested["series"]["id"] if attested["series"] else "none",
        "gaudi-patch:smoke": attested["smoke"]["status"],
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _purl(name: str, version: str) -> str:
    """Return the package URL; the reserved + of a local version is escaped."""
    return f"pkg:pypi/{name}@{version.replace('+', '%2B')}" if version else f"pkg:pypi/{name}"


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}
