"""The places where a run may read and write: the package, its state, its RECORD and its bytecode.

Whatever a target's file names (a path, a mode, an owner, a link) is checked against this first, and every path again,
part by part, when it is opened (``confined``). docs/trust.md says what a target's owner can and cannot do to the user
who runs gaudi-patch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.confined import Area, Bounds
from gaudi_patch.disk import FileImage
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import path_names
from gaudi_patch.target.installation import Installation, Target

MIB = 1024 * 1024
#: Limit for state.json and journal.json: more than any series needs.
DOCUMENT_LIMIT = 16 * MIB
#: Limit for RECORD, and so for its backup: about three million rows.
RECORD_LIMIT = 256 * MIB
#: Limit for all bytes that one transaction replaces.
UNDO_LIMIT = 1024 * MIB

#: A temporary file next to the file that it is about to replace.
TEMPORARY = re.compile(r"\.gaudi-patch-[0-9a-f]{1,16}-[0-9]{1,9}\.tmp")
_RECORD = re.compile(rf"RECORD|{TEMPORARY.pattern}")
_BYTECODE = re.compile(rf".+\.pyc|{TEMPORARY.pattern}", re.DOTALL)
_CACHED = re.compile(r"\.[^./]+(\.opt-[^./]+)?\.pyc")
_MOUNTS = Path("/proc/self/mountinfo")


class Ground(NamedTuple):
    """The files and directories of one installation.

    ``root`` is the base of relative paths in state and journal, ``home`` the journal's directory, ``prefix`` the
    directory of bytecode that is not kept beside its sources. ``target`` is what the user named, ``manifest`` the
    directory given with --manifest; suggested command lines repeat both.
    """

    root: Path
    package: str
    state_dir: Path
    home: Path
    bounds: Bounds
    prefix: Path | None = None
    target: Target = Target()
    manifest: Path | None = None

    @classmethod
    def of(cls, installation: Installation, manifest: Path | None = None) -> Ground:
        """Return the ground of ``installation``."""
        root, state_dir = installation.root, installation.state_dir
        parent, home = state_dir.parent, journal_home(installation)
        areas = [
            Area(root, (installation.package,), links=True),
            Area(parent, (state_dir.name,), limit=RECORD_LIMIT),
            Area(parent, (home.name,), limit=UNDO_LIMIT),
        ]
        if installation.dist_info is not None:
            areas.append(Area(installation.dist_info, files=_RECORD, flat=True, limit=RECORD_LIMIT))
        prefix = Path(installation.pycache_prefix) if installation.pycache_prefix else None
        if prefix is not None and prefix.is_absolute():
            mirrored = (*root.parts[1:], installation.package)
            areas.append(Area(prefix, mirrored, files=_BYTECODE, real=Path(os.path.realpath(prefix))))
        bounds = Bounds(areas, installation.image_root)
        return cls(root, installation.package, state_dir, home, bounds, prefix, installation.target, manifest)

    def standing(self) -> os.stat_result:
        """Return the status of the package's directory: its owner, and who may write there."""
        with self.bounds.directory(self.root / self.package) as descriptor:
            return os.fstat(descriptor)

    def package_path(self, name: str) -> Path:
        """Return the file ``name`` of a state or journal, which must be in the package.

        Raises ValueError with the reason.
        """
        if not name.startswith(f"{self.package}/"):
            raise ValueError(f"{name!a} is not below {self.package}/")
        if why := path_names.unsafe(name):
            raise ValueError(f"{name!a} {why}")
        return self.root / name

    def path(self, name: str) -> Path:
        """Return the path that a state or journal calls ``name``; ValueError where it lies outside."""
        check_name(name)
        path = self.root / name
        if not self.bounds.holds(path) and not self._is_other_cache(path):
            raise ValueError(f"{name!a} lies outside the package and its state")
        return path

    def directory(self, name: str) -> Path:
        """Return the directory that a state or journal calls ``name``; ValueError where it lies outside."""
        check_name(name)
        path = self.root / name
        if not self.bounds.holds_directory(path):
            raise ValueError(f"the directory {name!a} lies outside the package and its state")
        return path

    def cached(self, name: str, sources: Set[str]) -> Path:
        """Return the path of the bytecode ``name``; raise ValueError if it belongs to none of ``sources``.

        ``sources`` are relative to the root. The time taken does not grow with their number.
        """
        path = self.path(name)
        if path.parent.name == "__pycache__":
            folder = path.parent.parent
        elif (start := _mirror_at(path, self.root / self.package)) > 0:
            folder = Path("/", *path.parts[start:-1])
        else:
            folder = path.parent
        if folder.is_relative_to(self.root):
            for dot in re.finditer(r"\.", path.name):  # a stem may contain dots
                stem, tail = path.name[: dot.start()], path.name[dot.start() :]
                whole = _CACHED.fullmatch(tail) if folder != path.parent else tail == ".pyc"
                if whole and (folder / f"{stem}.py").relative_to(self.root).as_posix() in sources:
                    return path
        raise ValueError(f"{name!a} is not bytecode of a file that the series changes")

    def refuse_other_cache(self, paths: Iterable[Path]) -> None:
        """Refuse ``paths`` that name bytecode below another prefix than the current one."""
        for path in paths:
            if not self.bounds.holds(path) and self._is_other_cache(path):
                prefix = Path(*path.parts[: _mirror_at(path, self.root / self.package)])
                raise GaudiPatchError(
                    Exit.REFUSED,
                    "other-bytecode-cache",
                    f"bytecode was cached below {prefix}, which is not the current cache; nothing was changed",
                    f"run the same command with PYTHONPYCACHEPREFIX={prefix}",
                    str(path),
                )

    def _is_other_cache(self, path: Path) -> bool:
        """Return whether ``path`` is, by its text, the package's bytecode below any prefix, current or not."""
        return _BYTECODE.fullmatch(path.name) is not None and _mirror_at(path, self.root / self.package) > 0


def journal_home(installation: Installation) -> Path:
    """Return the directory of a transaction's journal: beside the state, so that the state can be removed."""
    return installation.state_dir.with_name(installation.state_dir.name + ".journal")


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a normal path: not empty, no ``..``, no NUL, a possible file name."""
    if not name or "\0" in name:
        raise ValueError(f"{name!a} is not a path")
    os.fsencode(name)  # UnicodeEncodeError, which is a ValueError, for a lone surrogate
    parts = name.removeprefix("/").split("/")
    if any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts) or len(name) > 4095:
        raise ValueError(f"{name[:100]!a} is not a normal path")


def _mirror_at(path: Path, folder: Path) -> int:
    """Return the index of the part of ``path`` at which the mirrored ``folder`` begins; 0 if nowhere."""
    wanted = folder.parts[1:]
    parts = path.parts
    for start in range(1, len(parts) - len(wanted)):
        if parts[start : start + len(wanted)] == wanted and Path(*parts[:start]) != Path("/"):
            return start
    return 0


def modest(
    image: FileImage, current: FileImage | None, package: os.stat_result, owners: Iterable[tuple[int, int]] = ()
) -> FileImage:
    """Return ``image`` with no more rights than the file that it replaces, or any in ``package``, has.

    Set-id and sticky bits stay only if ``current`` has them, write permission for others only if it or the directory
    has it. The owner is that of ``current`` or of the package, or one of ``owners``. State and journal are in the
    target, and whoever owns it can write them.
    """
    rights = current.mode if current is not None and current.link is None else 0
    mode = image.mode & (0o755 | rights & 0o7022 | package.st_mode & 0o022)
    owner = package.st_uid, package.st_gid
    allowed = {owner, *owners, current.owner if current is not None and current.owner is not None else owner}
    kept = image.owner if image.owner is None or image.owner in allowed else (current and current.owner) or owner
    return image._replace(mode=mode, owner=kept)


def refuse_mounts(paths: Iterable[Path]) -> None:
    """Refuse files and directories that are themselves mounts: they cannot be replaced or removed.

    A container started with ``-v FILE:FILE`` has such files.
    """
    mounts = mount_points()
    for path in paths:
        if os.fspath(path) in mounts:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "mounted-file",
                f"is a separate mount ({mounts[os.fspath(path)]}), which cannot be replaced; nothing was changed",
                "patch it at its source, or start the container without this mount (-v FILE:FILE) and "
                "run the same command again",
                os.fspath(path),
            )


def mount_points(table: Path = _MOUNTS) -> dict[str, str]:
    """Return the mounts seen by this process: each path, and what is mounted there."""
    mounts = {}
    try:
        lines = table.read_bytes().splitlines()
    except OSError:  # no /proc: replacing a mount then fails, and is undone
        return {}
    for line in lines:
        fields = [_unescaped(field) for field in line.split(b" ")]
        if len(fields) > 6 and b"-" in line.split(b" "):
            kind = fields.index("-")
            mounts[fields[4]] = f"{fields[3]} of {fields[kind + 2]}, {fields[kind + 1]}"
    return mounts


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))
