"""A tiny release's wheel, its series, and the patched wheel of both."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.series.manifest import Manifest
from gaudi_patch.wheel.build import BuildOptions, BuiltWheel, build
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.tiny import PATCHED, PRISTINE, Tiny


@dataclass(frozen=True)
class Release:
    """A release's wheel and the manifest with its series."""

    wheel: Path
    manifest: Manifest

    def build(self, out: Path, **options: object) -> BuiltWheel:
        """Build into the file ``out``."""
        with out.open("wb") as stream:
            return build(self.manifest, self.wheel, stream, BuildOptions(**options))  # type: ignore[arg-type]

    def bytes(self, **options: object) -> bytes:
        """Return the patched wheel."""
        stream = io.BytesIO()
        build(self.manifest, self.wheel, stream, BuildOptions(**options))  # type: ignore[arg-type]
        return stream.getvalue()


def release(folder: Path, version: str = tiny.VERSION, *, requires: str = "") -> Release:
    """Make the tiny release with its series; ``requires`` are lines of its metadata."""
    wheel = fake_wheel(folder / "release", version, dict(PRISTINE), requires=requires)
    data = tiny.patch(PRISTINE, PATCHED, tiny.EXECUTABLE)
    return Release(wheel, tiny.write_manifest(folder / "patches", {version: {"tiny.patch": data}}, {version: wheel}))


def installed(folder: Path, made: Release) -> Tiny:
    """Unpack the patched wheel as an installer does."""
    wheel = folder / "lmcache-0.5.6+gaudi.1-py3-none-any.whl"
    built = made.build(wheel)
    site = (folder / "site").resolve()
    unpack(wheel, site)
    return Tiny(site, made.manifest, built.name.version)


def record_faults(wheel: Path) -> list[str]:
    """Return the differences between RECORD and archive, read only with csv, zipfile and hashlib."""
    faults = []
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        listed = [row[0] for row in rows]
        if sorted(listed) != sorted(names) or len(set(names)) != len(names):
            faults.append(f"listed and not there, or there and not listed: {set(listed) ^ set(names)}")
        for path, digest, size in rows:
            data = archive.read(path)
            if path == record:
                faults += [f"{path} has a digest"] if digest or size else []
                continue
            kind, _, value = digest.partition("=")
            expected = base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode()
            if (value, size) != (expected, str(len(data))):
                faults.append(f"{path}: {digest},{size}")
    return faults
