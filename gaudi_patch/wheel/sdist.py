"""Build the patched sdist from a release's sdist and its series, for users who build LMCache themselves.

A wheel built from it has the patched files and the patched version, so `check` finds the series by the file hashes.
The attestation stays in the archive; no build backend copies it into an installation.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import time
import zlib
from calendar import timegm
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gaudi_patch.attestation import cyclonedx, forms
from gaudi_patch.attestation import file as attestation_file
from gaudi_patch.disk import FileImage
from gaudi_patch.errors import refused
from gaudi_patch.series.manifest import Manifest, Series
from gaudi_patch.wheel import metadata, patched
from gaudi_patch.wheel.archive import MOST_UNPACKED, NAME, SMALL, Sink, damaged
from gaudi_patch.wheel.build import BuildOptions, BuiltWheel
from gaudi_patch.wheel.names import SdistName
from gaudi_patch.wheel.patched import ATTESTATION, CHECKSUMS, STATE, HashingSink, Origin, digest_of
from gaudi_patch.wheel.release import series_for

SBOM = f"{STATE}/sbom.cdx.json"
_BLOCK = 1 << 20
_LATEST = 0xFFFFFFFF  # the latest date of a gzip file
#: Errors of a broken archive. A disk fault raises an OSError and none of these.
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, ValueError)


def build_sdist(manifest: Manifest, sdist: Path, out: BinaryIO, options: BuildOptions) -> BuiltWheel:
    """Write the patched sdist of ``sdist`` to ``out``.

    The files that the series changes are compared with the lock; an sdist has no RECORD for the others. Raises
    ``damaged-wheel``, ``other-build`` (exit 1), and the errors of a series that does not apply.
    """
    return _Build(manifest, sdist, options).write(out)


class _Member(NamedTuple):
    """One file or directory below the root of an sdist; ``name`` is relative to it, "" for the root itself."""

    name: str
    is_directory: bool
    executable: bool
    size: int
    seconds: int


@dataclass
class _Build:
    manifest: Manifest
    path: Path
    options: BuildOptions
    members: list[_Member] = field(default_factory=list)
    #: The files read before anything is written
    kept: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.drop_cuda:
            raise refused(
                "not-for-sdists",
                "--drop-cuda works for wheels only: an sdist's requirements are computed when it is built; nothing was "
                "written",
                "leave out --drop-cuda",
                str(self.path),
            )
        self.old = SdistName.of(self.path)
        self.new = self.old.patched(self.options.build)
        self.series: Series = series_for(self.manifest, self.old)
        egg = f"{self.old.name}.egg-info"
        self.about = ("PKG-INFO", f"{egg}/PKG-INFO")
        self.sources = f"{egg}/SOURCES.txt"

    def write(self, out: BinaryIO) -> BuiltWheel:
        self._read()
        made = patched.planned(
            self.manifest, self.series, self.path, [member.name for member in self.members], self._image
        )
        changed = {file.path: file.after for file in made.files}
        newest = max(member.seconds for member in self.members)
        date = patched.clamped(tuple(time.gmtime(newest)[:6]))
        origin = Origin(self.path, digest_of(self.path), self.old.version, self.new.version)
        where = patched.nowhere(self.manifest.package, self.new.version, self.new.file, self.new.root)
        attested = patched.attestation(self.manifest, self.series, made, origin, date, where)
        new = {name: image for name, image in changed.items() if name not in self.kept}
        replaced: dict[str, FileImage | None] = {name: image for name, image in changed.items() if name in self.kept}
        for name in self.about:
            if name in self.kept:
                replaced[name] = FileImage(self._about(self.kept[name], origin))
        if self.sources in self.kept:
            added = "".join(f"{name}\n" for name, image in sorted(new.items()) if image is not None)
            replaced[self.sources] = FileImage(self.kept[self.sources].rstrip(b"\n") + b"\n" + added.encode())
        new |= {
            ATTESTATION: FileImage(attestation_file.text(attested)),
            CHECKSUMS: FileImage(patched.checksums(changed)),
            SBOM: FileImage(forms.text(cyclonedx.document(attested))),
        }
        sink = HashingSink(out)
        packed = _Stored(sink, _epoch(date))
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            for member, stream in self._members():
                self._put(archive, member, stream, replaced)
            for name, image in sorted(new.items()):
                if image is not None:
                    self._add(archive, name, image, _epoch(date))
        packed.close()
        return BuiltWheel(self.new, self.old.version, self.series.id, sink.sha256, sink.size, (), attested)

    def _read(self) -> None:
        """Validate every member, and keep the files needed before the first byte is written."""
        wanted = {*self.manifest.locked_files(self.series), *self.about, self.sources}
        for member, stream in self._members():
            self.members.append(member)
            if member.name in wanted and stream is not None:
                if member.size > SMALL:
                    raise damaged(self.path, f"{member.name} is too large ({member.size:,} bytes)")
                self.kept[member.name] = stream.read()
        if self.about[0] not in self.kept:
            raise damaged(self.path, "has no PKG-INFO")
        self.modes = {member.name: member.executable for member in self.members}

    def _image(self, name: str) -> FileImage | None:
        data = self.kept.get(name)
        return None if data is None else FileImage(data, 0o755 if self.modes[name] else 0o644)

    def _about(self, data: bytes, origin: Origin) -> bytes:
        note = patched.note(self.old.name, origin, self.series, ATTESTATION)
        try:
            edited = metadata.edited(
                data, old=origin.release, new=origin.version, note=note, drop_cuda=self.options.drop_cuda
            )
        except ValueError as error:
            raise damaged(self.path, str(error)) from error
        return edited.data

    def _members(self) -> Iterator[tuple[_Member, io.BufferedIOBase | None]]:
        """Yield the members in order, each with its stream (None for a directory), valid until the next one.

        Raises ``damaged-wheel`` for anything no release contains: links, devices, names outside the root, duplicate
        names, archive bombs.
        """
        seen: set[str] = set()
        total = 0
        try:
            with self.path.open("rb") as stream, gzip.GzipFile(fileobj=stream) as unpacked:
                with tarfile.open(fileobj=unpacked, mode="r|") as archive:
                    for info in archive:
                        member = self._member(info)
                        if member.name in seen:
                            raise damaged(self.path, f"has two entries named {info.name!a}")
                        seen.add(member.name)
                        total += member.size
                        if total > MOST_UNPACKED:
                            raise damaged(self.path, "unpacks to more data than any release contains")
                        yield member, None if member.is_directory else archive.extractfile(info)  # type: ignore[misc]
                while rest := unpacked.read(_BLOCK):  # read to the end, where gzip verifies the checksum
                    total += len(rest)
                    if total > MOST_UNPACKED or rest.strip(b"\0"):
                        raise damaged(self.path, "has extra bytes after its files")
        except _BROKEN as error:
            raise damaged(self.path, f"is not a readable .tar.gz: {error}") from error

    def _member(self, info: tarfile.TarInfo) -> _Member:
        root, _, name = info.name.partition("/")
        parts = name.split("/") if name else []
        if root != self.old.root or not NAME.fullmatch(info.name) or any(part in ("", ".", "..") for part in parts):
            raise damaged(self.path, f"has an entry with an unsafe name: {info.name!a}")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or info.issparse():
            raise damaged(self.path, f"{info.name!a} is a link or a special file")
        if not 0 <= info.mtime <= _LATEST:
            raise damaged(self.path, f"{info.name!a} has no valid date")
        return _Member(name, info.isdir(), bool(info.mode & 0o111), info.size, int(info.mtime))

    def _put(
        self,
        archive: tarfile.TarFile,
        member: _Member,
        stream: io.BufferedIOBase | None,
        replaced: dict[str, FileImage | None],
    ) -> None:
        seconds = _epoch(patched.clamped(tuple(time.gmtime(member.seconds)[:6])))
        if member.name in replaced:
            image = replaced[member.name]
            if image is not None:
                self._add(archive, member.name, image, seconds, executable=member.executable)
            return
        info = self._info(member.name, seconds, executable=member.executable)
        if stream is None:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        info.size = member.size
        archive.addfile(info, stream)

    def _add(
        self, archive: tarfile.TarFile, name: str, image: FileImage, seconds: int, *, executable: bool = False
    ) -> None:
        info = self._info(name, seconds, executable=executable or bool(image.mode & 0o111))
        info.size = len(image.data)
        archive.addfile(info, io.BytesIO(image.data))

    def _info(self, name: str, seconds: int, *, executable: bool) -> tarfile.TarInfo:
        """Return the header of a file, with nothing about the machine or the user that builds it."""
        info = tarfile.TarInfo(f"{self.new.root}/{name}".rstrip("/"))
        info.mtime, info.mode = seconds, 0o755 if executable else 0o644
        return info


class _Stored:
    """A gzip file of stored blocks: the same bytes with every zlib."""

    _MOST = 0xFFFF

    def __init__(self, sink: Sink, seconds: int) -> None:
        self._sink, self._buffer, self._crc, self._size = sink, bytearray(), 0, 0
        sink.write(b"\x1f\x8b\x08\x00" + struct.pack("<L", seconds & 0xFFFFFFFF) + b"\x00\xff")

    def write(self, data: bytes) -> int:
        """Write the next bytes of the archive."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._buffer += data
        while len(self._buffer) > self._MOST:
            self._block(bytes(self._buffer[: self._MOST]), last=False)
            del self._buffer[: self._MOST]
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size

    def close(self) -> None:
        """Write the last block, the checksum and the size."""
        self._block(bytes(self._buffer), last=True)
        self._sink.write(struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF))

    def _block(self, data: bytes, *, last: bool) -> None:
        self._sink.write(struct.pack("<BHH", last, len(data), len(data) ^ 0xFFFF) + data)


def _epoch(date: tuple[int, ...]) -> int:
    return timegm((*date, 0, 0, 0))
