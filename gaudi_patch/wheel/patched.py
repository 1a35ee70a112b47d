"""The code shared by wheels and sdists: the planned series, the attestation, the note and the dates."""

from __future__ import annotations

import calendar
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gaudi_patch import __version__
from gaudi_patch.attestation import document
from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.disk import FileImage
from gaudi_patch.engine import built, layout, plan
from gaudi_patch.engine.plan import Plan, State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.errors import refused
from gaudi_patch.series.manifest import Manifest, Series
from gaudi_patch.target.installation import Installation, Layout

#: Directory of gaudi-patch's files, below the metadata directory.
STATE = "gaudi-patch"
ATTESTATION = f"{STATE}/{built.FILE}"
CHECKSUMS = f"{STATE}/SHA256SUMS"
_NO_SMOKE = "a wheel contains no results, so that it can be rebuilt byte for byte; see `wheel --report`"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip file


class Origin(NamedTuple):
    """The archive to patch: its file and sha256, its release, and its new version."""

    path: Path
    sha256: str
    release: str
    version: str


def planned(
    manifest: Manifest, series: Series, path: Path, names: Iterable[str], read: Callable[[str], FileImage | None]
) -> Plan:
    """Return the plan of ``series`` for the files of the archive ``path``.

    names: all files of the archive. read: returns a file by its path below site-packages. Raises ``other-build`` or
    ``compiled-module`` (exit 1).
    """
    locked = manifest.locked_files(series)
    modules = [name for name in names if name.endswith((".so", ".pyd"))]
    pristine: dict[str, FileImage | None] = {}
    for name, hashes in sorted(locked.items()):
        image = read(name)
        digest = image.sha256 if image else None
        if digest != hashes.before:
            raise refused(
                "other-build",
                f"{name} differs from the release: {digest or 'no file'}, the lock says "
                f"{hashes.before or 'no file'}; nothing was written",
                "use the file from PyPI",
                str(path),
            )
        stem = name.removesuffix(".py")
        compiled = [module for module in modules if module.startswith(f"{stem}.")]
        if compiled and name.endswith(".py"):
            raise refused(
                "compiled-module",
                f"{name} is shadowed by the compiled {compiled[0]}: a patched source would never run; "
                "nothing was written",
                file=str(path),
            )
        pristine[name] = image
    return plan.build(manifest, series, pristine, locked=locked)


def attestation(
    manifest: Manifest, series: Series, made: Plan, origin: Origin, date: tuple[int, ...], where: Installation
) -> Attestation:
    """Return the attestation to write into the archive; ``date`` is its only timestamp."""
    files = tuple(
        plan.FileState(
            file.path,
            file.before.sha256 if file.before else None,
            file.after.sha256 if file.after else None,
            file.after.sha256 if file.after else None,
            State.PATCHED,
        )
        for file in made.files
    )
    said = built.Built(
        origin.version,
        origin.release,
        series.id,
        {name: manifest.patches[name].sha256 for name in series.patches},
        series.capabilities,
        manifest.locked_files(series),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(calendar.timegm((*date, 0, 0, 0)))),
        __version__,
        origin.path.name,
        origin.sha256,
    )
    situation = Situation(
        manifest, where, manifest.verdict(origin.release), series, False, None, None, files, State.PATCHED, said
    )
    return document.build(
        situation,
        changed=True,
        proof=document.Proof((), _NO_SMOKE),
        around=document.Surroundings(None, None, {}),
        tool=__version__,
        stamp_ns=calendar.timegm((*date, 0, 0, 0)) * 1_000_000_000,
    )


def nowhere(package: str, version: str, file: str, directory: str) -> Installation:
    """Return the future installation of an archive, which has no root yet; ``directory``: of its metadata."""
    return Installation(
        package=package,
        version=version,
        root=Path(file),
        layout=Layout.WHEEL,
        dist_info=Path(directory),
        record=None,
        state_dir=Path(directory, STATE),
        python=None,
        python_version=None,
        cache_tag=None,
        pycache_prefix=None,
        own_interpreter=False,
        prefix=None,
        how="",
        warnings=(),
    )


def note(name: str, origin: Origin, series: Series, attested: str) -> str:
    """Return the note for the metadata; ``attested`` is the path of the attestation."""
    return (
        f"This is {name} {origin.release} with patches for Intel Gaudi, not a release of the {name} project. It was "
        f"built by gaudi-patch {__version__} from {origin.path.name} "
        f"(sha256 {origin.sha256}), series {series.id}. The changes, file by file, are listed in {attested} beside "
        f"this file."
    )


def clamped(date: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``date`` or SOURCE_DATE_EPOCH, whichever is earlier, but not before 1980."""
    epoch = layout.source_date_ns()
    if epoch is None:
        return date
    return max(_EARLIEST, min(date, tuple(time.gmtime(epoch // 1_000_000_000)[:6])))


def checksums(files: Mapping[str, FileImage | None]) -> bytes:
    """Return a list for `sha256sum --check`, run in the directory that contains the package."""
    lines = [f"{image.sha256}  {path}\n" for path, image in sorted(files.items()) if image is not None]
    return "".join(lines).encode()


class HashingSink:
    """A stream that computes the sha256 and size of the data written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._hash, self.size = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Write the next bytes."""
        self._hash.update(data)
        self.size += len(data)
        return self._out.write(data)

    @property
    def sha256(self) -> str:
        """Return the sha256 of the data so far."""
        return self._hash.hexdigest()


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 16):
            digest.update(block)
    return digest.hexdigest()
