"""Where a run may read and write: the package, its state, its RECORD, and its bytecode. Nothing else.

Whatever a file of the target names (a path, a mode, an owner, a link) is held to this before it is believed,
and every path again, part by part, when it is opened (``confined``). What a target's owner can and cannot do
to the user who runs gaudi-patch is written down in docs/trust.md.
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
#: state.json and journal.json: more than any series can make of them.
DOCUMENT_LIMIT = 16 * MIB
#: RECORD, and so a backup: about three million rows.
RECORD_LIMIT = 256 * MIB
#: All bytes that one transaction replaces.
UNDO_LIMIT = 1024 * MIB

#: A file that is about to be renamed into its place, beside it.
TEMPORARY = re.compile(r"\.gaudi-patch-[0-9a-f]{1,16}-[0-9]{1,9}\.tmp")
_RECORD = re.compile(rf"RECORD|{TEMPORARY.pattern}")
_BYTECODE = re.compile(rf".+\.pyc|{TEMPORARY.pattern}", re.DOTALL)
_CACHED = re.compile(r"\.[^./]+(\.opt-[^./]+)?\.pyc")
_MOUNTS = Path("/proc/self/mountinfo")


class Ground(NamedTuple):
    """What belongs to one installation.

    ``root`` is what relative paths of state and journal start from, ``home`` the journal's directory,
    ``prefix`` that of bytecode that is not kept beside its sources, ``target`` what the user pointed at,
    ``manifest`` the directory given with --manifest: what a command line to type next repeats.
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
        """Return what belongs to ``installation``."""
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
        """Return what the package's directory is: whom it belongs to, and who may write there."""
        with self.bounds.directory(self.root / self.package) as descriptor:
            return os.fstat(descriptor)

    def package_path(self, name: str) -> Path:
        """Return the file ``name`` of a state or journal, which is to lie in the package.

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
            raise ValueError(f"{name!a} lies outside of the package and its state")
        return path

    def directory(self, name: str) -> Path:
        """Return the directory that a state or journal calls ``name``; ValueError where it lies outside."""
        check_name(name)
        path = self.root / name
        if not self.bounds.holds_directory(path):
            raise ValueError(f"the directory {name!a} lies outside of the package and its state")
        return path

    def cached(self, name: str, sources: Set[str]) -> Path:
        """Return the path of the bytecode ``name``; ValueError where it is not that of any of ``sources``.

        These are relative to the root. The time that this takes does not grow with their number.
        """
        path = self.path(name)
        if path.parent.name == "__pycache__":
            folder = path.parent.parent
        elif (start := _mirror_at(path, self.root / self.package)) > 0:
            folder = Path("/", *path.parts[start:-1])
        else:
            folder = path.parent
        if folder.is_relative_to(self.root):
            for dot in re.finditer(r"\.", path.name):  # a stem may have dots itself
                stem, tail = path.name[: dot.start()], path.name[dot.start() :]
                whole = _CACHED.fullmatch(tail) if folder != path.parent else tail == ".pyc"
                if whole and (folder / f"{stem}.py").relative_to(self.root).as_posix() in sources:
                    return path
        raise ValueError(f"{name!a} is no bytecode of a file that the series changes")

    def refuse_other_cache(self, paths: Iterable[Path]) -> None:
        """Refuse to go on where ``paths`` name bytecode below another prefix than the one in force."""
        for path in paths:
            if not self.bounds.holds(path) and self._is_other_cache(path):
                prefix = Path(*path.parts[: _mirror_at(path, self.root / self.package)])
                raise GaudiPatchError(
                    Exit.REFUSED,
                    "other-bytecode-cache",
                    f"bytecode was cached below {prefix}, which is not where it is cached now; nothing was changed",
                    f"run the same command with PYTHONPYCACHEPREFIX={prefix}",
                    str(path),
                )

    def _is_other_cache(self, path: Path) -> bool:
        """Return whether ``path`` is bytecode of the package below a prefix, by its text; it may not be the one in
        force.
        """
        return _BYTECODE.fullmatch(path.name) is not None and _mirror_at(path, self.root / self.package) > 0


def journal_home(installation: Installation) -> Path:
    """Return where a transaction keeps its journal: beside the state, so that the state can go."""
    return installation.state_dir.with_name(installation.state_dir.name + ".journal")


def check_name(name: str) -> None:
    """Raise ValueError for what is no normal path: empty, with ``..``, NUL, or what no file can be called."""
    if not name or "\0" in name:
        raise ValueError(f"{name!a} is no path")
    os.fsencode(name)  # UnicodeEncodeError, which is a ValueError, for a lone surrogate
    parts = name.removeprefix("/").split("/")
    if any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts) or len(name) > 4095:
        raise ValueError(f"{name[:100]!a} is no normal path")


def _mirror_at(path: Path, folder: Path) -> int:
    """Return at which part of ``path`` the mirrored ``folder`` begins; 0 for nowhere."""
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

    Set-id and sticky bits stay only where ``current`` has them, write permission for others where it or the
    directory has it; the owner is that of ``current`` or the package's, or one of ``owners``. State and journal
    lie in the target, and whoever owns it can write them.
    """
    rights = current.mode if current is not None and current.link is None else 0
    mode = image.mode & (0o755 | rights & 0o7022 | package.st_mode & 0o022)
    owner = package.st_uid, package.st_gid
    allowed = {owner, *owners, current.owner if current is not None and current.owner is not None else owner}
    kept = image.owner if image.owner is None or image.owner in allowed else (current and current.owner) or owner
    return image._replace(mode=mode, owner=kept)


def refuse_mounts(paths: Iterable[Path]) -> None:
    """Refuse files and directories that are mounts of their own: none of them can be replaced or removed.

    A container that is started with ``-v FILE:FILE`` has such files.
    """
    mounts = mount_points()
    for path in paths:
        if os.fspath(path) in mounts:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "mounted-file",
                f"is a mount of its own ({mounts[os.fspath(path)]}), which cannot be replaced; nothing was changed",
                "patch it where it comes from, or start the container without this mount (-v FILE:FILE) and "
                "run the same command again",
                os.fspath(path),
            )


def mount_points(table: Path = _MOUNTS) -> dict[str, str]:
    """Return what is mounted where, as this process sees it: the path, and what lies there."""
    mounts = {}
    try:
        lines = table.read_bytes().splitlines()
    except OSError:  # no /proc: the replacement itself fails then, and is undone
        return {}
    for line in lines:
        fields = [_unescaped(field) for field in line.split(b" ")]
        if len(fields) > 6 and b"-" in line.split(b" "):
            kind = fields.index("-")
            mounts[fields[4]] = f"{fields[3]} of {fields[kind + 2]}, {fields[kind + 1]}"
    return mounts


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))
