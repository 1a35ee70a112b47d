"""A release's wheel and its series -> the patched wheel, in memory and in one pass over the file."""

from __future__ import annotations

import base64
import calendar
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gaudi_patch import __version__
from gaudi_patch.attestation import cyclonedx, document, forms
from gaudi_patch.attestation import file as attestation_file
from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.disk import FileImage
from gaudi_patch.engine import built, layout, plan, record
from gaudi_patch.engine.plan import Plan, State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.errors import refused
from gaudi_patch.series.manifest import Manifest, Series
from gaudi_patch.target.installation import Installation, Layout
from gaudi_patch.wheel import metadata
from gaudi_patch.wheel.archive import Archive, Content, Entry, Writer, damaged
from gaudi_patch.wheel.names import WheelName
from gaudi_patch.wheel.release import series_for

STATE = "gaudi-patch"
ATTESTATION = f"{STATE}/{built.FILE}"
CHECKSUMS = f"{STATE}/SHA256SUMS"
#: PEP 770: where tools look for documents about what a wheel is made of.
SBOM = "sboms/gaudi-patch.cdx.json"
#: Signatures of RECORD, which is another one now.
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")
_NO_SMOKE = "a wheel holds no results, so that it can be built again byte for byte; `wheel --report` has them beside it"


@dataclass(frozen=True)
class BuildOptions:
    """How to build: the number in the local version, and whether to leave out CUDA's requirements and PyTorch."""

    build: int = 1
    drop_cuda: bool = False


class BuiltWheel(NamedTuple):
    """What was built: its name, version, sha256 and size, and what is written in it."""

    name: WheelName
    release: str
    series: str
    sha256: str
    size: int
    dropped: tuple[str, ...]
    attestation: Attestation


def build(manifest: Manifest, wheel: Path, out: BinaryIO, options: BuildOptions) -> BuiltWheel:
    """Write the patched wheel of ``wheel`` to ``out``.

    Every file of the release is held against its RECORD, and those that the series changes against the lock, too.
    Raises ``damaged-wheel``, ``other-build`` (exit 1), and whatever a series raises that does not apply.
    """
    with wheel.open("rb") as stream:
        return _Build(manifest, Archive(wheel, stream), options).write(out)


@dataclass
class _Build:
    manifest: Manifest
    archive: Archive
    options: BuildOptions
    #: RECORD of the new wheel, as far as it is written
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
        changed = {one.path: one.after for one in planned.files}
        date = self._date()
        release = digest_of(self.path)
        info = self._read(f"{self.old.dist_info}/METADATA")
        try:
            edited = metadata.edited(
                info,
                old=self.old.version,
                new=self.new.version,
                note=self._note(release),
                drop_cuda=self.options.drop_cuda,
            )
        except ValueError as error:
            raise damaged(self.path, str(error)) from error
        attested = self._attestation(planned, release, date)
        own = {
            "METADATA": edited.data,
            "WHEEL": metadata.wheel_file(self._read(f"{self.old.dist_info}/WHEEL"), f"gaudi-patch ({__version__})"),
            ATTESTATION: attestation_file.text(attested),
            CHECKSUMS: checksums(changed),
            SBOM: forms.text(cyclonedx.document(attested)),
        }
        sink = _Sink(out)
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
        """Return what the release's RECORD says of each file: one row for each, and none for another."""
        name = f"{self.old.dist_info}/RECORD"
        rows = record.selected(self.archive.read(name), lambda _: True)
        files = {entry.name for entry in self.archive.entries if not entry.is_directory}
        files -= {name, *(f"{self.old.dist_info}/{one}" for one in _SIGNATURES)}
        for odd in sorted(files ^ (set(rows) - {name})):
            what = "has no row in RECORD" if odd in files else "is in RECORD, and not in the wheel"
            raise damaged(self.path, f"{odd} {what}")
        return rows

    def _plan(self) -> Plan:
        locked = self.manifest.locked_files(self.series)
        pristine: dict[str, FileImage | None] = {}
        for path, hashes in sorted(locked.items()):
            image = None
            if (entry := self.entries.get(path)) is not None:
                image = FileImage(self._read(path), 0o755 if entry.executable else 0o644)
            digest = image.sha256 if image else None
            if digest != hashes.before:
                raise refused(
                    "other-build",
                    f"{path} is not that of the release: {digest or 'no file'}, the lock says "
                    f"{hashes.before or 'no file'}; nothing was written",
                    "take the wheel that PyPI has",
                    str(self.path),
                )
            stem = path.removesuffix(".py")
            compiled = [name for name in self.entries if name.startswith(f"{stem}.") and name.endswith((".so", ".pyd"))]
            if compiled and path.endswith(".py"):
                raise refused(
                    "compiled-module",
                    f"{path} is shadowed by the compiled {compiled[0]}: a patched source would never run; "
                    "nothing was written",
                    file=str(self.path),
                )
            pristine[path] = image
        return plan.build(self.manifest, self.series, pristine, locked=locked)

    def _attestation(self, planned: Plan, release: str, date: tuple[int, ...]) -> Attestation:
        stamp_ns = _seconds(date) * 1_000_000_000
        files = tuple(
            plan.FileState(
                one.path,
                one.before.sha256 if one.before else None,
                one.after.sha256 if one.after else None,
                one.after.sha256 if one.after else None,
                State.PATCHED,
            )
            for one in planned.files
        )
        made = built.Built(
            self.new.version,
            self.old.version,
            self.series.id,
            {name: self.manifest.patches[name].sha256 for name in self.series.patches},
            self.series.capabilities,
            self.manifest.locked_files(self.series),
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_seconds(date))),
            __version__,
            self.path.name,
            release,
        )
        verdict = self.manifest.verdict(self.old.version)
        installation = _nowhere(self.manifest.package, self.new)
        situation = Situation(
            self.manifest, installation, verdict, self.series, False, None, None, files, State.PATCHED, made
        )
        return document.build(
            situation,
            changed=True,
            proof=document.Proof((), _NO_SMOKE),
            around=document.Surroundings(None, None, {}),
            tool=__version__,
            stamp_ns=stamp_ns,
        )

    def _note(self, release: str) -> str:
        return (
            f"This is {self.old.name} {self.old.version} with patches for Intel Gaudi, and no release of the "
            f"{self.old.name} project. It was built by gaudi-patch {__version__} from {self.path.name} "
            f"(sha256 {release}), series {self.series.id}. What was changed, file by file, is in "
            f"{ATTESTATION} beside this file."
        )

    def _date(self) -> tuple[int, ...]:
        """Return the date of what is new: that of the release's newest file, so that no build has one of its own."""
        newest = max(entry.date for entry in self.archive.entries)
        return self._clamped(newest)

    def _clamped(self, date: tuple[int, ...]) -> tuple[int, ...]:
        epoch = layout.source_date_ns()
        if epoch is None:
            return date
        earliest = (1980, 1, 1, 0, 0, 0)
        return max(earliest, min(date, tuple(time.gmtime(epoch // 1_000_000_000)[:6])))

    def _read(self, name: str) -> bytes:
        """Return a file of the release, held against RECORD."""
        data = self.archive.read(name)
        self._hold(name, record.Entry.of(data))
        return data

    def _hold(self, name: str, found: record.Entry) -> None:
        if self.listed.get(name) != found:
            raise damaged(self.path, f"{name} is not as RECORD has it")

    def _copy(self, writer: Writer, entry: Entry, date: tuple[int, ...]) -> None:
        name = self._renamed(entry.name)
        content = writer.copy(self.archive, entry, name, self._clamped(entry.date))
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


class _Sink:
    """Takes what is written, and knows its sha256 and size."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._hash, self.size = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._out.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def checksums(files: Mapping[str, FileImage | None]) -> bytes:
    """Return what `sha256sum --check` reads in the directory that the wheel is installed to."""
    lines = [f"{image.sha256}  {path}\n" for path, image in sorted(files.items()) if image is not None]
    return "".join(lines).encode()


def _nowhere(package: str, name: WheelName) -> Installation:
    """Return the installation that the wheel will be, without a place yet."""
    return Installation(
        package=package,
        version=name.version,
        root=Path(name.file),
        layout=Layout.WHEEL,
        dist_info=Path(name.dist_info),
        record=None,
        state_dir=Path(name.dist_info, STATE),
        python=None,
        python_version=None,
        cache_tag=None,
        pycache_prefix=None,
        own_interpreter=False,
        prefix=None,
        how="",
        warnings=(),
    )


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, which is never held whole."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _row(content: Content) -> record.Entry:
    encoded = base64.urlsafe_b64encode(content.sha256).rstrip(b"=").decode("ascii")
    return record.Entry(f"sha256={encoded}", str(content.size))


def _seconds(date: tuple[int, ...]) -> int:
    return calendar.timegm((*date, 0, 0, 0))
