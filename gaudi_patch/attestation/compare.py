"""Compare an attestation with an installation, and name each difference. Reads the disk, writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gaudi_patch.attestation.document import patch_digests, series_id
from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.engine.bytecode_check import recorded, wrong
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.plan import inspect, refuse_compiled
from gaudi_patch.engine.situation import Situation
from gaudi_patch.series.manifest import LockedFile


class Difference(NamedTuple):
    """One difference: the item, its attested value, and the value found."""

    what: str
    attested: str
    found: str

    def sentence(self) -> str:
        return f"{self.what}: attested {self.attested}, found {self.found}"


def differences(attested: Attestation, situation: Situation) -> list[Difference]:
    """Return all differences from the attestation; empty if there are none.

    Only the disk counts, not what this gaudi-patch would apply: another version may check the image. Raises
    ``compiled-module`` (exit 1) if a compiled extension hides an attested source.
    """
    files = [*_files(attested, situation), *_unattested(attested, situation)]
    return [*_names(attested, situation), *_patches(attested, situation, bool(files)), *_journal(situation), *files]


def changed_packages(attested: Attestation, now: Mapping[str, str | None]) -> list[Difference]:
    """Return other packages whose version has changed since; the smoke results do not cover the new versions."""
    return [
        Difference(name, version or "not installed", now[name] or "not installed")
        for name, version in sorted(attested["packages"].items())
        if name in now and now[name] != version
    ]


def _names(attested: Attestation, situation: Situation) -> Iterator[Difference]:
    installation = situation.installation
    if attested["package"]["name"] != installation.package:
        yield Difference("package", attested["package"]["name"], installation.package)
    if attested["package"]["version"] != installation.version:
        yield Difference("version", attested["package"]["version"] or "none", installation.version or "none")
    series = attested["series"]["id"] if attested["series"] else None
    if series != series_id(situation):
        yield Difference("series", series or "none", series_id(situation) or "none")


def _patches(attested: Attestation, situation: Situation, files_differ: bool) -> Iterator[Difference]:
    """Compare the patches by name and hash.

    Releases of gaudi-patch may split the same change into different patches. So a name on one side only counts as a
    difference if the files differ too; a name on both sides must have the same hash.
    """
    if situation.applied is None and situation.built is None:
        return
    wanted = {patch["name"]: patch["sha256"] for patch in attested["patches"]}
    there = patch_digests(situation)
    for name in sorted({*wanted, *there} if files_differ else set(wanted) & set(there)):
        if wanted.get(name) != there.get(name):
            yield Difference(f"patch {name}", wanted.get(name, "none"), there.get(name, "none"))


def _journal(situation: Situation) -> Iterator[Difference]:
    if situation.interrupted is not None:
        yield Difference("transaction", "finished", f"an interrupted {situation.interrupted.verb}")


def _files(attested: Attestation, situation: Situation) -> Iterator[Difference]:
    installation = situation.installation
    expected = {file["path"]: LockedFile(file["before"], file["after"]) for file in attested["files"]}
    refuse_compiled(installation.root, sorted(expected))
    for file in inspect(Ground.of(installation), expected):
        if file.current != file.after:
            state = " (as released)" if file.current is not None and file.current == file.before else ""
            yield Difference(file.path, file.after or "no file", (file.current or "no file") + state)
    for other in wrong(installation, sorted(expected), recorded(installation, situation.applied)):
        yield Difference(other.source, "run from its source", f"run from {other.path}, which {other.reason}")


def _unattested(attested: Attestation, situation: Situation) -> Iterator[Difference]:
    """Yield files patched by a series here but missing from the attestation."""
    known = {file["path"] for file in attested["files"]}
    patched = situation.applied or situation.built
    now = {path: file.after for path, file in patched.files.items()} if patched else {}
    for path, after in sorted(now.items()):
        if path not in known:
            yield Difference(path, "not patched", after or "deleted")
