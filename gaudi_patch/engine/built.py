"""An installation patched before it was installed: a wheel with its attestation, built by `gaudi-patch wheel`.

There are no backups and nothing to roll back to; the release's own wheel replaces it. The attestation is as untrusted
as the rest of the target; the files are compared with it by hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gaudi_patch.engine import documents, strict
from gaudi_patch.engine.applied import MOST_FILES
from gaudi_patch.engine.guard import Ground
from gaudi_patch.series.model import LockedFile

#: In the dist-info, where state.json would be.
FILE = "attestation.json"
SCHEMA = 1
OUTCOME = "built"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!_-]{0,99}")


class Built(NamedTuple):
    """A patched wheel: the release it was built from, and what was applied."""

    #: The installed version: ``release`` plus a local part.
    version: str
    release: str
    series: str
    patches: Mapping[str, str]
    capabilities: tuple[str, ...]
    files: Mapping[str, LockedFile]
    built_at: str
    tool: str
    #: File name and sha256 of the release's wheel
    wheel: str
    wheel_sha256: str

    @property
    def build(self) -> int:
        """Return the build number: the N of ``+gaudi.N``; 0 if the version has none."""
        number = self.version.rpartition("+gaudi.")[2]
        return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0


_KIND = documents.Kind(
    "attestation",
    SCHEMA,
    documents.damaged_state,
    lambda file, schema, document: documents.newer_state(file, schema, SCHEMA),
)


def load(ground: Ground) -> Built | None:
    """Read the attestation in the dist-info; return None if the wheel has none.

    Raises ``state-damaged`` (exit 6) if it cannot be understood, ``state-newer`` (exit 1) if a newer gaudi-patch
    wrote it.
    """
    # Only whole numbers: smoke results, which have fractions, are attested next to a wheel, not in it.
    return documents.load(ground.state_dir / FILE, ground, _KIND, _parsed)


def _parsed(document: dict[str, Any], ground: Ground) -> Built:
    outcome = strict.text(document["outcome"], "outcome")
    if outcome != OUTCOME:
        raise ValueError(f"its outcome is {outcome!a}, not {OUTCOME}")
    package = strict.mapping(document["package"], "package")
    series = strict.mapping(document["series"], "series")
    origin = strict.mapping(document["release"], "release")
    files = {}
    entries = strict.items(document["files"], "files")
    if len(entries) > MOST_FILES:
        raise ValueError(f"files has {len(entries)} entries, more than any series")
    for entry in entries:
        fields = strict.mapping(entry, "a file")
        path = strict.text(fields["path"], "a path", 4095)
        ground.package_path(path)
        files[path] = LockedFile(_digest(fields["before"], path), _digest(fields["after"], path))
    if not files:
        raise ValueError("it names no file")
    release = strict.text(origin["version"], "the release")
    if not _VERSION.fullmatch(release):
        raise ValueError(f"{release!a:.100} is not a version")
    patches = [strict.mapping(item, "a patch") for item in strict.items(document["patches"], "patches")]
    brings = strict.items(document["capabilities"], "capabilities")
    capabilities = [strict.mapping(item, "a capability") for item in brings]
    return Built(
        strict.text(package["version"], "version"),
        release,
        strict.text(series["id"], "series"),
        {
            strict.text(patch["name"], "a patch"): strict.digest(patch["sha256"], "the hash of a patch")
            for patch in patches
        },
        tuple(strict.text(brought["id"], "a capability") for brought in capabilities),
        files,
        strict.text(document["created"], "created"),
        strict.text(strict.mapping(document["tool"], "tool")["version"], "tool"),
        strict.text(origin["wheel"], "the wheel"),
        strict.digest(origin["sha256"], "the hash of the wheel"),
    )


def _digest(value: object, path: str) -> str | None:
    return None if value is None else strict.digest(value, f"the hash of {path!a}")
