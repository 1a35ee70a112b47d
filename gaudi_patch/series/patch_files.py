"""Patches on disk: a ``.patch`` file, or a directory of the files that the patch creates.

The second form is for the project's own code. It is kept as source, which editors, linters and type checkers
understand. Its diff is generated from the sources at every read, always with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from gaudi_patch.errors import bad_manifest, bad_patch
from gaudi_patch.series import diff, hunks
from gaudi_patch.series.diff import FileDiff, Hunk, Kind

_NO_BLOB = "0" * 40


def is_source(name: str) -> bool:
    """Return whether the patch ``name`` is a directory of source files."""
    return not name.endswith(".patch")


def read(directory: Path, name: str) -> bytes:
    """Return the diff of the patch ``name`` below ``directory``. Raises ``bad-manifest`` if it cannot be read."""
    path = directory / name
    try:
        return creating(sources(path)) if is_source(name) else path.read_bytes()
    except OSError as error:
        raise bad_manifest(f"the patch cannot be read: {error.strerror}", str(path)) from error


def sources(root: Path) -> dict[str, bytes]:
    """Return the Python files below ``root`` by their relative path, which is also their path below site-packages."""
    if not root.is_dir():
        raise FileNotFoundError(2, "No such directory", str(root))
    return {
        name.as_posix(): path.read_bytes()
        for path in root.rglob("*.py")
        if not is_litter(name := path.relative_to(root))
    }


def is_litter(path: Path) -> bool:
    """Return whether a path relative to the patches is left over from an interpreter or tool (a cache, a swap file)."""
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)


def creating(files: Mapping[str, bytes]) -> bytes:
    """Return the diff that creates ``files``, as ``git diff --full-index`` writes it."""
    return diff.render([_created(path, files[path]) for path in sorted(files, key=str.encode)])


def _created(path: str, data: bytes) -> FileDiff:
    blob = hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()
    lines = tuple((b"+", line) for line in hunks.split(data))
    body = (Hunk(0, 0, 1, len(lines), lines),) if lines else ()
    return FileDiff(path, Kind.CREATE, None, 0o644, _NO_BLOB, blob, body)


def created(data: bytes, name: str) -> dict[str, bytes]:
    """Return the files that the diff ``data`` creates. Raises ``bad-patch`` if it does anything else."""
    files = {}
    for change in diff.parse(data, name):
        if change.kind is not Kind.CREATE or change.new_mode != 0o644 or not change.path.endswith(".py"):
            hint = "move that change to a separate patch"
            raise bad_patch(
                f"{name} is kept as source files: it may only create .py files, not {change.path}", name, hint=hint
            )
        files[change.path] = b"".join(text for hunk in change.hunks for text in hunk.new)
    return files
