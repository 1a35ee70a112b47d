"""The record of what was applied to an installation: ``state.json`` and the backups beside it.

The directory is in the dist-info, or in the .git directory of a checkout, and RECORD lists all its files. So pip and
uv remove it with the package, and no backup can outlive its version.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gaudi_patch.attributes import ACL
from gaudi_patch.disk import FileImage, read_image, sha256
from gaudi_patch.engine import documents, strict
from gaudi_patch.engine.guard import Ground
from gaudi_patch.errors import GaudiPatchError

SCHEMA = 1
STATE_FILE = "state.json"
BACKUPS = "backup"
#: Far more than any series changes, yet low enough to bound the total cost.
MOST_FILES, MOST_BYTECODE = 1_000, 20_000


class Saved(NamedTuple):
    """The metadata of a pristine file; the backup named by the hash holds its bytes."""

    sha256: str
    mode: int
    mtime_ns: int | None
    owner: tuple[int, int] | None
    link: str | None = None
    attributes: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, image: FileImage) -> Saved:
        return cls(image.sha256, image.mode, image.mtime_ns, image.owner, image.link, image.attributes)

    @classmethod
    def from_json(cls, value: object, what: str) -> Saved:
        """Parse the output of :meth:`to_json`; raise a ValueError that names ``what`` for anything else."""
        saved = strict.mapping(value, what)
        time, owner, link = saved["mtime_ns"], saved["owner"], saved["link"]
        if link is not None and (not isinstance(link, str) or not link or "\0" in link or len(link) > 4095):
            raise ValueError(f"the link of {what} is not a link")
        return cls(
            strict.digest(saved["sha256"], f"the sha256 of {what}"),
            strict.mode(saved["mode"], f"the mode of {what}"),
            None
            if time is None
            else strict.integer(time, f"the time of {what}", -strict.TIME_LIMIT, strict.TIME_LIMIT),
            None if owner is None else _owner(owner, what),
            strict.text(link, f"the link of {what}", 4095) if link is not None else None,
            _attributes(saved.get("attributes", {}), what),
        )

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "sha256": self.sha256,
            "mode": f"{self.mode:04o}",
            "mtime_ns": self.mtime_ns,
            "owner": self.owner,
            "link": self.link,
        }
        if self.attributes:
            document["attributes"] = {name: base64.b64encode(data).decode() for name, data in self.attributes}
        return document


def _owner(value: object, what: str) -> tuple[int, int]:
    user, group = strict.items(value, f"the owner of {what}", 2)
    name = f"the owner of {what}"
    return strict.integer(user, name, 0, strict.OWNER_LIMIT), strict.integer(group, name, 0, strict.OWNER_LIMIT)


def _attributes(value: object, what: str) -> tuple[tuple[str, bytes], ...]:
    attributes = []
    for name, data in sorted(strict.mapping(value, f"the attributes of {what}").items()):
        if name != ACL and not re.fullmatch(r"user\.[ -~]{1,250}", name):
            raise ValueError(f"{name!a} of {what} is not a known attribute")
        try:
            attributes.append((name, base64.b64decode(strict.text(data, name, 100_000), validate=True)))
        except binascii.Error:
            raise ValueError(f"{name} of {what} is not base64") from None
    return tuple(attributes)


class AppliedFile(NamedTuple):
    """One target: its pristine image (None: absent) and its current sha256 (None: deleted)."""

    before: Saved | None
    after: str | None


class Applied(NamedTuple):
    """The content of state.json."""

    package: str
    version: str
    series: str
    patches: Mapping[str, str]
    capabilities: tuple[str, ...]
    files: Mapping[str, AppliedFile]
    bytecode: Mapping[str, Saved]
    record: Saved | None
    directories: tuple[str, ...]
    applied_at: str
    tool: str
    offset: bool = False
    #: Smoke checks were requested and have not finished: written with the files, removed by the proof.
    unproved: bool = False
    #: The sha256 of each .pyc that was compiled with this series.
    compiled: Mapping[str, str] = MappingProxyType({})

    def to_bytes(self) -> bytes:
        document = {
            "schema_version": SCHEMA,
            "package": self.package,
            "version": self.version,
            "series": self.series,
            "patches": dict(self.patches),
            "capabilities": list(self.capabilities),
            "files": {
                path: {"before": file.before.to_json() if file.before else None, "after": file.after}
                for path, file in sorted(self.files.items())
            },
            "bytecode": {path: saved.to_json() for path, saved in sorted(self.bytecode.items())},
            "record": self.record.to_json() if self.record else None,
            "directories": list(self.directories),
            "applied_at": self.applied_at,
            "gaudi_patch": self.tool,
            "offset": self.offset,
        }
        if self.compiled:
            document["compiled"] = dict(self.compiled)
        if self.unproved:
            document["proof"] = "pending"
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    def backups(self) -> set[str]:
        """Return the hashes of all backups needed by this state."""
        needed = {file.before.sha256 for file in self.files.values() if file.before}
        needed |= {saved.sha256 for saved in self.bytecode.values()}
        if self.record:
            needed.add(self.record.sha256)
        return needed


def _newer(file: Path, schema: int, document: dict[str, Any]) -> GaudiPatchError:
    writer = ascii(document.get("gaudi_patch", "an unknown version"))[:80]
    return documents.newer_state(file, schema, SCHEMA, writer)


_KIND = documents.Kind("state", SCHEMA, documents.damaged_state, _newer)


def load(ground: Ground) -> Applied | None:
    """Read state.json; return None if nothing was applied.

    Raises ``state-damaged`` (exit 6) if it cannot be understood or names files outside the installation, and
    ``state-newer`` (exit 1) if a newer gaudi-patch wrote it.
    """
    applied = documents.load(ground.state_dir / STATE_FILE, ground, _KIND, _parsed)
    if applied is not None:
        ground.refuse_other_cache(ground.root / name for name in applied.bytecode)
    return applied


def _parsed(document: dict[str, Any], ground: Ground) -> Applied:
    """Check each value of a state; raise a ValueError or KeyError that names the wrong one."""
    files = {}
    for path, entry in strict.mapping(document["files"], "files", MOST_FILES).items():
        ground.package_path(path)
        file = strict.mapping(entry, ascii(path))
        after = file["after"]
        files[path] = AppliedFile(
            Saved.from_json(file["before"], ascii(path)) if file["before"] is not None else None,
            strict.digest(after, f"the hash of {path!a}") if after is not None else None,
        )
    bytecode = {}
    for name, entry in strict.mapping(document["bytecode"], "bytecode", MOST_BYTECODE).items():
        ground.cached(name, files.keys())
        bytecode[name] = Saved.from_json(entry, ascii(name))
    compiled = {}
    for name, digest in strict.mapping(document.get("compiled", {}), "compiled").items():
        ground.cached(name, files.keys())
        compiled[name] = strict.digest(digest, f"the hash of {name!a}")
    directories = []
    for item in strict.items(document["directories"], "directories"):
        name = strict.text(item, "a directory", 4095)
        ground.directory(name)
        directories.append(name)
    patches = strict.mapping(document["patches"], "patches")
    return Applied(
        strict.text(document["package"], "package"),
        strict.text(document["version"], "version"),
        strict.text(document["series"], "series"),
        {
            strict.text(name, "a patch"): strict.text(digest, f"the hash of {name!a}")
            for name, digest in patches.items()
        },
        tuple(strict.text(name, "a capability") for name in strict.items(document["capabilities"], "capabilities")),
        files,
        bytecode,
        Saved.from_json(document["record"], "RECORD") if document["record"] is not None else None,
        tuple(directories),
        strict.text(document["applied_at"], "applied_at"),
        strict.text(document["gaudi_patch"], "gaudi_patch"),
        strict.boolean(document["offset"], "offset"),
        document.get("proof") == "pending",
        compiled,
    )


def restore(ground: Ground, saved: Saved, path: Path) -> FileImage:
    """Return the pristine image of the file ``path``, after comparing its backup with its hash.

    A link becomes a file if its target is missing or has changed since (``uv cache clean``).
    """
    file = ground.state_dir / BACKUPS / saved.sha256
    image = read_image(file, ground.bounds)
    if image is None:
        raise documents.damaged_state(file, "this backup is missing")
    if sha256(image.data) != saved.sha256:
        raise documents.damaged_state(file, "this backup was changed: its sha256 does not match its name")
    link = sound_link(ground, saved, path)
    return FileImage(image.data, saved.mode, saved.mtime_ns, saved.owner, link, saved.attributes)


def sound_link(ground: Ground, saved: Saved, path: Path) -> str | None:
    """Return the link that ``saved`` records for ``path``; None if it no longer leads to the same bytes.

    Only a source file of the package may be a link, and its bytes must be known. A link to any other file is never
    created, whatever the state contains.
    """
    if saved.link is None or not ground.bounds.may_be_link(path):
        return None
    data = ground.bounds.read_through(path, saved.link)
    return saved.link if data is not None and sha256(data) == saved.sha256 else None
