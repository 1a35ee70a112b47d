"""A file tree as it is to become, in memory: writes stay here, reads fall through to the disk."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.confined import Bounds
from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine import bytecode
from gaudi_patch.engine.transaction import Change


class Overlay:
    """Apply, rollback and the update of a series each lay their result on it; the difference is the plan."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds
        self._disk: dict[Path, FileImage | None] = {}
        self._new: dict[Path, FileImage | None] = {}
        self._volatile: set[Path] = set()

    def get(self, path: Path) -> FileImage | None:
        """Return what ``path`` is to hold."""
        if path not in self._disk:
            self._disk[path] = read_image(path, self._bounds)
        return self._new.get(path, self._disk[path])

    def on_disk(self, path: Path) -> FileImage | None:
        """Return what ``path`` holds now, whatever was decided."""
        self.get(path)
        return self._disk[path]

    def set(self, path: Path, image: FileImage | None, *, volatile: bool = False) -> None:
        """Decide what ``path`` is to hold; None removes it. ``volatile``: bytecode, see ``Change``."""
        self.get(path)
        self._new[path] = image
        if volatile:
            self._volatile.add(path)

    def variants(self, source: Path, pycache_prefix: str | None) -> list[bytecode.Variant]:
        """Cached bytecode of ``source`` as it is to be: what is on disk, less and more what was decided here."""
        variants = bytecode.variants(source, pycache_prefix, self._bounds)
        known = {variant.path for variant in variants}
        variants += [
            one
            for path in self._new
            if path not in known and (one := bytecode.variant_of(path, source, pycache_prefix))
        ]
        return [variant for variant in variants if self.get(variant.path) is not None]

    def bytecode(self) -> dict[Path, str]:
        """Return the SHA-256 of all bytecode that was decided to be there, by its path."""
        return {path: image.sha256 for path in self._volatile if (image := self._new[path]) is not None}

    def changes(self) -> list[Change]:
        """Return the difference to the disk, in the order in which it was decided."""
        changes = []
        for path, after in self._new.items():
            before = self._disk[path]
            same = before is None if after is None else after.same_content(before)
            if same and (before is None or after is None or before.mode == after.mode):
                continue
            changes.append(Change(path, before, after, path in self._volatile))
        return changes
