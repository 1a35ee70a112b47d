"""A planned file tree in memory: writes stay here, reads fall through to the disk."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.confined import Bounds
from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine import bytecode
from gaudi_patch.engine.transaction import Change


class Overlay:
    """The planned tree. Apply, rollback and updates lay their result on it; the difference to the disk is the plan."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds
        self._disk: dict[Path, FileImage | None] = {}
        self._new: dict[Path, FileImage | None] = {}
        self._volatile: set[Path] = set()

    def get(self, path: Path) -> FileImage | None:
        """Return the planned content of ``path``."""
        if path not in self._disk:
            self._disk[path] = read_image(path, self._bounds)
        return self._new.get(path, self._disk[path])

    def on_disk(self, path: Path) -> FileImage | None:
        """Return the current content of ``path`` on disk."""
        self.get(path)
        return self._disk[path]

    def set(self, path: Path, image: FileImage | None, *, volatile: bool = False) -> None:
        """Set the planned content of ``path``; None removes it. ``volatile``: bytecode, see ``Change``."""
        self.get(path)
        self._new[path] = image
        if volatile:
            self._volatile.add(path)

    def variants(self, source: Path, pycache_prefix: str | None) -> list[bytecode.Variant]:
        """Return the planned cached bytecode of ``source``: that on disk with the changes made here."""
        variants = bytecode.variants(source, pycache_prefix, self._bounds)
        known = {variant.path for variant in variants}
        variants += [
            one
            for path in self._new
            if path not in known and (one := bytecode.variant_of(path, source, pycache_prefix))
        ]
        return [variant for variant in variants if self.get(variant.path) is not None]

    def bytecode(self) -> dict[Path, str]:
        """Return the SHA-256 of all planned bytecode, by path."""
        return {path: image.sha256 for path in self._volatile if (image := self._new[path]) is not None}

    def changes(self) -> list[Change]:
        """Return the changes to the disk, in the order in which they were made."""
        changes = []
        for path, after in self._new.items():
            before = self._disk[path]
            same = before is None if after is None else after.same_content(before)
            if same and (before is None or after is None or before.mode == after.mode):
                continue
            changes.append(Change(path, before, after, path in self._volatile))
        return changes
