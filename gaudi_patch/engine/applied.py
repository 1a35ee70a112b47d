"""What was applied to an installation: ``state.json`` and the backups beside it.

The folder lies in the dist-info (or in the git dir of a checkout), and every file of it is listed in
RECORD: pip and uv then remove it with the package, so no backup can outlive the version it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.disk import Image, read_image, sha256
from gaudi_patch.errors import Exit, GaudiPatchError

SCHEMA = 1
STATE_FILE = "state.json"
BACKUPS = "backup"


class Saved(NamedTuple):
    """The metadata of a pristine file; its bytes lie in the backup named by the hash."""

    sha256: str
    mode: int
    mtime_ns: int | None
    owner: tuple[int, int] | None
    link: str | None = None

    @classmethod
    def of(cls, image: Image) -> Saved:
        return cls(image.sha256, image.mode, image.mtime_ns, image.owner, image.link)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Saved:
        owner = value["owner"]
        return cls(
            value["sha256"], int(value["mode"], 8), value["mtime_ns"], tuple(owner) if owner else None, value["link"]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "sha256": self.sha256,
            "mode": f"{self.mode:04o}",
            "mtime_ns": self.mtime_ns,
            "owner": self.owner,
            "link": self.link,
        }


class AppliedFile(NamedTuple):
    """One target: what it was before (None: absent) and the sha256 it has now (None: deleted)."""

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
    #: Its smoke checks were asked for and have not ended: written with the files, taken off by the proof.
    unproved: bool = False

    def to_bytes(self) -> bytes:
        document = {
            "schema_version": SCHEMA,
            "package": self.package,
            "version": self.version,
            "series": self.series,
            "patches": dict(self.patches),
            "capabilities": list(self.capabilities),
            "files": {
                path: {"before": one.before.to_json() if one.before else None, "after": one.after}
                for path, one in sorted(self.files.items())
            },
            "bytecode": {path: saved.to_json() for path, saved in sorted(self.bytecode.items())},
            "record": self.record.to_json() if self.record else None,
            "directories": list(self.directories),
            "applied_at": self.applied_at,
            "gaudi_patch": self.tool,
            "offset": self.offset,
        }
        if self.unproved:
            document["proof"] = "pending"
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    def backups(self) -> set[str]:
        """The hashes of all backups that this state needs."""
        needed = {one.before.sha256 for one in self.files.values() if one.before}
        needed |= {saved.sha256 for saved in self.bytecode.values()}
        if self.record:
            needed.add(self.record.sha256)
        return needed


def load(state_dir: Path) -> Applied | None:
    """Read state.json; None when nothing was applied.

    Raises ``state-damaged`` (exit 6) when it cannot be understood, ``state-newer`` (exit 1) when a newer
    gaudi-patch wrote it: neither is guessed at.
    """
    file = state_dir / STATE_FILE
    image = read_image(file)
    if image is None:
        return None
    try:
        document = json.loads(image.data)
        schema = document["schema_version"]
        if schema > SCHEMA:
            raise GaudiPatchError(
                Exit.REFUSED,
                "state-newer",
                f"was written by a newer gaudi-patch (schema {schema}, this one knows {SCHEMA}); nothing was changed",
                f"upgrade gaudi-patch; it was written by {document.get('gaudi_patch', 'an unknown version')}",
                str(file),
            )
        return Applied(
            document["package"],
            document["version"],
            document["series"],
            document["patches"],
            tuple(document["capabilities"]),
            {
                path: AppliedFile(Saved.from_json(one["before"]) if one["before"] else None, one["after"])
                for path, one in document["files"].items()
            },
            {path: Saved.from_json(saved) for path, saved in document["bytecode"].items()},
            Saved.from_json(document["record"]) if document["record"] else None,
            tuple(document["directories"]),
            document["applied_at"],
            document["gaudi_patch"],
            document["offset"],
            document.get("proof") == "pending",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, f"cannot be understood ({type(error).__name__}: {error})") from error


def damaged(file: Path, what: str) -> GaudiPatchError:
    """The state or a backup cannot be trusted; only a reinstall brings pristine files back."""
    return GaudiPatchError(
        Exit.HUMAN,
        "state-damaged",
        f"{what}; nothing was changed",
        "reinstall the package (pip install --force-reinstall --no-deps lmcache==VERSION), then apply again",
        str(file),
    )


def restore(state_dir: Path, saved: Saved, path: Path) -> Image:
    """The pristine image of the file ``path``, its backup held against its hash first.

    A link becomes a file where what it led to is gone or changed since (``uv cache clean``).
    """
    file = state_dir / BACKUPS / saved.sha256
    image = read_image(file)
    if image is None:
        raise damaged(file, "this backup is missing")
    if sha256(image.data) != saved.sha256:
        raise damaged(file, "this backup was changed: its sha256 is not its name")
    return Image(image.data, saved.mode, saved.mtime_ns, saved.owner, _sound_link(saved, path))


def _sound_link(saved: Saved, path: Path) -> str | None:
    if saved.link is None:
        return None
    try:
        data = (path.parent / saved.link).read_bytes()
    except OSError:
        return None
    return saved.link if sha256(data) == saved.sha256 else None
