"""Installation + series -> the state of every file, and its content after applying. Writes nothing.

The state of a file is decided by its content hash alone, never by a hunk that happens to fit or by another tool's
report.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine.guard import Ground
from gaudi_patch.errors import GaudiPatchError, bad_patch, refused
from gaudi_patch.series.manifest import LockedFile, Manifest, Series

if TYPE_CHECKING:
    from gaudi_patch.series.diff import FileDiff
    from gaudi_patch.series.hunks import Hunk


class State(str, Enum):
    """The state of a file (the first four values) or of an installation (all)."""

    PRISTINE = "pristine"
    PATCHED = "patched"
    MODIFIED = "modified"
    MISSING = "missing"
    PARTIAL = "partial"
    OUTDATED = "outdated"


class FileState(NamedTuple):
    """One target: the hashes it may have, its actual hash, and the resulting state."""

    path: str
    before: str | None
    after: str | None
    current: str | None
    state: State


class PlannedFile(NamedTuple):
    """One target's pristine and patched image; None for a missing file."""

    path: str
    before: FileImage | None
    after: FileImage | None


class Plan(NamedTuple):
    """The complete result of a series for an installation, in memory."""

    series: Series
    files: tuple[PlannedFile, ...]
    offsets: Mapping[str, tuple[int, ...]]


def file_state(path: str, expected: LockedFile, current: str | None) -> FileState:
    """Decide one file's state by its hash."""
    if current == expected.after:
        state = State.PATCHED
    elif current == expected.before:
        state = State.PRISTINE
    else:
        state = State.MISSING if current is None else State.MODIFIED
    return FileState(path, expected.before, expected.after, current, state)


def inspect(ground: Ground, expected: Mapping[str, LockedFile]) -> tuple[FileState, ...]:
    """Return the state of every file that ``expected`` names."""
    states = []
    for path, hashes in sorted(expected.items()):
        image = read_image(target(ground.root, ground.package, path), ground.bounds)
        states.append(file_state(path, hashes, image.sha256 if image else None))
    return tuple(states)


def whole_state(files: Sequence[FileState]) -> State:
    """Return the state of an installation: the common state of its files, or how they differ."""
    # A file whose mode alone changes has the same hash in both states, so it decides nothing.
    decisive = [file for file in files if file.before != file.after] or files
    states = {file.state for file in decisive}
    if states == {State.PRISTINE} or states == {State.PATCHED}:
        return states.pop()
    if State.MODIFIED in states:
        return State.MODIFIED
    return State.MISSING if State.MISSING in states else State.PARTIAL


def target(root: Path, package: str, path: str) -> Path:
    """Return the location below ``root`` of a patch's ``path``; refuse a path out of the package.

    ``root`` must be a real path. A directory that is a symbolic link out of the package is refused, as by git
    ("beyond a symbolic link").
    """
    if not path.startswith(f"{package}/"):
        raise bad_patch(f"touches {path}, which is not below {package}/", path)
    full = root / path
    folder = os.path.realpath(full.parent)
    inside = os.path.join(root, package)  # noqa: PTH118 - the comparison is of texts
    if folder != inside and not folder.startswith(inside + os.sep):
        raise refused("outside-package", f"leads out of the package, to {folder}; nothing was changed", file=str(full))
    return full


def parse_series(manifest: Manifest, series: Series) -> list[tuple[str, FileDiff]]:
    """Return all file diffs of a series in order, each with its patch's name, after comparing patches with the lock."""
    from gaudi_patch.series import diff

    return [
        (name, change)
        for name in series.patches
        for change in diff.parse(manifest.patch_bytes(name), str(manifest.folder(name) / name))
    ]


def build(
    manifest: Manifest,
    series: Series,
    pristine: Mapping[str, FileImage | None],
    *,
    locked: Mapping[str, LockedFile] | None,
    owner: tuple[int, int] | None = None,
) -> Plan:
    """Apply ``series`` to the pristine images, in memory.

    ``locked`` are the hashes that the results must have; a hunk may then apply at another line, because the result is
    verified. None means --allow-offset on an unknown version: exact context at a unique position, without hashes.
    ``owner`` is the owner of created files. Raises ``does-not-apply`` (exit 1) with the patch, the file, and the
    line.
    """
    from gaudi_patch.series import hunks

    images: dict[str, FileImage | None] = dict(pristine)
    moved: dict[str, tuple[int, ...]] = {}
    for name, change in parse_series(manifest, series):
        current = images.get(change.path)
        data = _content(change, current, name)
        try:
            moved[change.path] = moved.get(change.path, ()) + tuple(hunks.offsets(data, change.hunks))
            result = hunks.apply(data, change.hunks, allow_offset=True)
        except hunks.HunkMismatch as error:
            raise _does_not_apply(manifest.folder(name) / name, change.path, data, error) from error
        images[change.path] = _result(change, current, result, owner)
    if locked is not None:
        _compare_with_lock(manifest, series, images, locked)
    files = tuple(PlannedFile(path, pristine.get(path), image) for path, image in sorted(images.items()))
    return Plan(series, files, {path: lines for path, lines in moved.items() if any(lines)})


def reverse(
    manifest: Manifest, series: Series, patched: Mapping[str, FileImage | None], locked: Mapping[str, LockedFile]
) -> Plan:
    """Return the pristine images of ``patched`` files whose state is lost, by reverse-applying the series.

    Every result must have the pristine hash of the lock.
    """
    from gaudi_patch.series import diff, hunks

    images: dict[str, FileImage | None] = dict(patched)
    for name, change in reversed(parse_series(manifest, series)):
        if change.path not in patched:
            continue
        current = images.get(change.path)
        data = current.data if current else b""
        try:
            result = hunks.apply(data, _backwards(change.hunks), allow_offset=True)
        except hunks.HunkMismatch as error:
            raise _does_not_apply(manifest.folder(name) / name, change.path, data, error) from error
        if change.kind is diff.Kind.CREATE:
            images[change.path] = None
        else:
            changed = change.old_mode is not None and change.old_mode != change.new_mode
            mode = change.old_mode if changed and change.old_mode is not None else current.mode if current else 0o644
            images[change.path] = current._replace(data=result, mode=mode) if current else FileImage(result, mode)
    for path, hashes in locked.items():
        image = images.get(path)
        if (image.sha256 if image else None) != hashes.before:
            raise refused(
                "not-reversible", "would not become the pristine file in the lock; nothing was changed", file=path
            )
    return Plan(series, tuple(PlannedFile(path, images[path], patched.get(path)) for path in sorted(images)), {})


def refuse_compiled(root: Path, paths: Sequence[str]) -> None:
    """Refuse a module that is shadowed by a compiled extension: patching its source would do nothing."""
    extensions: dict[Path, dict[str, str]] = {}
    for path in paths:
        source = root / path
        if source.suffix != ".py":
            continue
        if source.parent not in extensions:
            extensions[source.parent] = _extensions(source.parent)
        if name := extensions[source.parent].get(source.stem):
            raise refused(
                "compiled-module",
                f"is shadowed by the compiled {name}: a patched source would never run; nothing was changed",
                file=str(source),
            )


def _extensions(directory: Path) -> dict[str, str]:
    """Return the compiled extensions in a directory, by module name."""
    try:
        names = sorted(os.listdir(directory), reverse=True)  # noqa: PTH208 - names are all that is asked for
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name.partition(".")[0]: name for name in names if name.endswith((".so", ".pyd"))}


def _backwards(applied: Sequence[Hunk]) -> list[Hunk]:
    """Return the hunks that undo ``applied``."""
    from dataclasses import replace

    sides = {b"+": b"-", b"-": b"+", b" ": b" "}
    return [
        replace(
            change,
            old_start=change.new_start,
            old_count=change.new_count,
            new_start=change.old_start,
            new_count=change.old_count,
            lines=tuple((sides[sign], text) for sign, text in change.lines),
        )
        for change in applied
    ]


def _content(change: FileDiff, current: FileImage | None, name: str) -> bytes:
    from gaudi_patch.series import diff

    if change.kind is diff.Kind.CREATE:
        if current is not None:
            raise refused(
                "exists", f"{name} creates this file, but it already exists; nothing was changed", file=change.path
            )
        return b""
    if current is None:
        raise refused(
            "missing", f"{name} changes this file, but it does not exist; nothing was changed", file=change.path
        )
    return current.data


def _result(
    change: FileDiff, current: FileImage | None, data: bytes, owner: tuple[int, int] | None
) -> FileImage | None:
    from gaudi_patch.series import diff

    if change.kind is diff.Kind.DELETE:
        return None
    if current is None:
        return FileImage(data, change.new_mode if change.new_mode is not None else 0o644, owner=owner)
    changed = change.new_mode is not None and change.new_mode != change.old_mode
    mode = change.new_mode if changed and change.new_mode is not None else current.mode
    return FileImage(data, mode, owner=current.owner)


def _compare_with_lock(
    manifest: Manifest, series: Series, images: Mapping[str, FileImage | None], locked: Mapping[str, LockedFile]
) -> None:
    for path in sorted({*images, *locked}):
        image = images.get(path)
        digest = image.sha256 if image else None
        if path not in locked or digest != locked[path].after:
            raise GaudiPatchError(
                bad_patch("", "").exit,
                "lock-mismatch",
                f"series {series.id} gives {digest} for {path}, the lock says "
                f"{locked[path].after if path in locked else 'nothing'}; nothing was changed",
                "maintainers: gaudi-patch dev lint --write",
                str(manifest.directory / "manifest.lock"),
            )


def _does_not_apply(patch: Path, path: str, data: bytes, error: Exception) -> GaudiPatchError:
    from gaudi_patch.series import explain
    from gaudi_patch.series.hunks import HunkMismatch

    assert isinstance(error, HunkMismatch)
    return GaudiPatchError(
        refused("", "").exit,
        "does-not-apply",
        f"hunk {error.index + 1} does not apply to {path} at line {error.at}: {error.reason}; nothing was changed",
        "the file differs from what the patch expects; the details show where",
        str(patch),
        error.hunk.line,
        explain.explain(data, error.hunk).sentences(),
    )
