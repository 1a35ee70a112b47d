"""Build the patched wheel from a release's wheel and its series, in memory and in one pass over the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gaudi_patch import __version__
from gaudi_patch.attestation import cyclonedx, forms
from gaudi_patch.attestation import file as attestation_file
from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.disk import FileImage
from gaudi_patch.engine import record
from gaudi_patch.engine.plan import Plan
from gaudi_patch.series.manifest import Manifest, Series
from gaudi_patch.wheel import metadata, patched
from gaudi_patch.wheel.archive import Archive, Content, Entry, Writer, damaged
from gaudi_patch.wheel.names import SdistName, WheelName
from gaudi_patch.wheel.patched import ATTESTATION, CHECKSUMS, HashingSink, Origin, digest_of
from gaudi_patch.wheel.release import series_for

#: PEP 770: the place for documents about a wheel's components.
SBOM = "sboms/gaudi-patch.cdx.json"
#: Signatures of RECORD, which the new RECORD invalidates.
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True)
class BuildOptions:
    """How to build: the number in the local version, and whether to drop the requirements on CUDA and PyTorch."""

    build: int = 1
    drop_cuda: bool = False


class BuiltWheel(NamedTuple):
    """A built wheel or sdist: name, release, series, sha256, size, dropped requirements and attestation."""

    name: WheelName | SdistName
    release: str
    series: str
    sha256: str
    size: int
    dropped: tuple[str, ...]
    attestation: Attestation


def build(manifest: Manifest, wheel: Path, out: BinaryIO, options: BuildOptions) -> BuiltWheel:
    """Write the patched wheel of ``wheel`` to ``out``.

    Every file of the release is compared with RECORD, and every file that the series changes also with the lock.
    Raises ``damaged-wheel``, ``other-build`` (exit 1), and the errors of a series that does not apply.
    """
    with wheel.open("rb") as stream:
        return _Build(manifest, Archive(wheel, stream), options).write(out)


@dataclass
class _Build:
    manifest: Manifest
    archive: Archive
    options: BuildOptions
    #: The rows of the new wheel's RECORD so far
    rows: dict[str, record.Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.archive.path
        self.old = WheelName.of(self.path)
        self.new = self.old.patched(self.options.build)
        self.series: Series = series_for(self.manifest, self.old)
        self.entries = {entry.name: entry for entry in self.archive.entries}
        if f"{self.old.dist_info}/METADATA" not in self.entries:
            raise damaged(self.path, f"has no {self.old.dist_info}/METADATA")
        self.listed = self._listed()

    def write(self, out: BinaryIO) -> BuiltWheel:
        planned = self._plan()
        changed = {file.path: file.after for file in planned.files}
        date = self._date()
        origin = Origin(self.path, digest_of(self.path), self.old.version, self.new.version)
        info = self._read(f"{self.old.dist_info}/METADATA")
        try:
            edited = metadata.edited(
                info,
                old=self.old.version,
                new=self.new.version,
                note=patched.note(self.old.name, origin, self.series, ATTESTATION),
                drop_cuda=self.options.drop_cuda,
            )
        except ValueError as error:
            raise damaged(self.path, str(error)) from error
        where = patched.nowhere(self.manifest.package, self.new.version, self.new.file, self.new.dist_info)
        attested = patched.attestation(self.manifest, self.series, planned, origin, date, where)
        own = {
            "METADATA": edited.data,
            "WHEEL": metadata.wheel_file(self._read(f"{self.old.dist_info}/WHEEL"), f"gaudi-patch ({__version__})"),
            ATTESTATION: attestation_file.text(attested),
            CHECKSUMS: patched.checksums(changed),
            SBOM: forms.text(cyclonedx.document(attested)),
        }
        sink = HashingSink(out)
        writer = Writer(sink)
        package = [entry for entry in self.archive.entries if not entry.name.startswith(f"{self.old.dist_info}/")]
        about = [entry for entry in self.archive.entries if entry.name.startswith(f"{self.old.dist_info}/")]
        for entry in package:
            if entry.name in changed:
                self._store(writer, entry.name, changed.pop(entry.name), date)
            else:
                self._copy(writer, entry, date)
        for path, image in sorted(changed.items()):
            self._store(writer, path, image, date)
        for entry in about:
            name = entry.name.removeprefix(f"{self.old.dist_info}/")
            if name not in own and name not in ("RECORD", *_SIGNATURES):
                self._copy(writer, entry, date)
        for name, data in own.items():
            self._store(writer, f"{self.new.dist_info}/{name}", FileImage(data), date)
        file = f"{self.new.dist_info}/RECORD"
        writer.store(file, record.updated(b"", {**self.rows, file: record.Entry()}), date)
        writer.close()
        return BuiltWheel(self.new, self.old.version, self.series.id, sink.sha256, sink.size, edited.dropped, attested)

    def _listed(self) -> Mapping[str, record.Entry]:
        """Return the release's RECORD, by file; refuse a missing or an extra row."""
        name = f"{self.old.dist_info}/RECORD"
        rows = record.selected(self.archive.read(name), lambda _: True)
        files = {entry.name for entry in self.archive.entries if not entry.is_directory}
        files -= {name, *(f"{self.old.dist_info}/{signature}" for signature in _SIGNATURES)}
        for odd in sorted(files ^ (set(rows) - {name})):
            what = "has no row in RECORD" if odd in files else "is in RECORD but not in the wheel"
            raise damaged(self.path, f"{odd} {what}")
        return rows

    def _plan(self) -> Plan:
        return patched.planned(self.manifest, self.series, self.path, self.entries, self._image)

    def _image(self, name: str) -> FileImage | None:
        entry = self.entries.get(name)
        return None if entry is None else FileImage(self._read(name), 0o755 if entry.executable else 0o644)

    def _date(self) -> tuple[int, ...]:
        """Return the date for new files: that of the release's newest file, so that every build has the same."""
        return patched.clamped(max(entry.date for entry in self.archive.entries))

    def _read(self, name: str) -> bytes:
        """Return a file of the release, after comparing it with RECORD."""
        data = self.archive.read(name)
        self._hold(name, record.Entry.of(data))
        return data

    def _hold(self, name: str, row: record.Entry) -> None:
        if self.listed.get(name) != row:
            raise damaged(self.path, f"{name} does not match RECORD")

    def _copy(self, writer: Writer, entry: Entry, date: tuple[int, ...]) -> None:
        name = self._renamed(entry.name)
        content = writer.copy(self.archive, entry, name, patched.clamped(entry.date))
        if not entry.is_directory:
            found = _row(content)
            self._hold(entry.name, found)
            self.rows[name] = found

    def _store(self, writer: Writer, name: str, image: FileImage | None, date: tuple[int, ...]) -> None:
        if image is not None:
            self.rows[name] = _row(writer.store(name, image.data, date, executable=bool(image.mode & 0o111)))

    def _renamed(self, name: str) -> str:
        for old, new in ((self.old.dist_info, self.new.dist_info), (self.old.data, self.new.data)):
            if name.startswith(f"{old}/"):
                return new + name.removeprefix(old)
        return name


def _row(content: Content) -> record.Entry:
    encoded = base64.urlsafe_b64encode(content.sha256).rstrip(b"=").decode("ascii")
    return record.Entry(f"sha256={encoded}", str(content.size))
