"""The rows of RECORD that belong to an applied series, laid on an overlay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gaudi_patch.disk import FileImage
from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import bytecode, record
from gaudi_patch.engine.applied import Applied
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.target.installation import Installation


def update(
    overlay: Overlay,
    installation: Installation,
    applied: Applied,
    files: Mapping[str, FileImage | None],
    compiled: Iterable[Path],
    stamp: int,
) -> None:
    """Update the rows of everything that an applied series changes, adds or removes."""
    assert installation.record is not None and installation.dist_info is not None
    original = overlay.get(installation.record)
    if original is None:
        return
    base, state_dir = installation.dist_info.parent, installation.state_dir
    images = {installation.root / path: image for path, image in files.items()}
    ours = [
        state_dir / applied_state.STATE_FILE,
        *(state_dir / applied_state.BACKUPS / name for name in applied.backups()),
    ]
    images.update({file: overlay.get(file) for file in ours})
    rows = {relative(path, base): record.Entry.of(image.data) if image else None for path, image in images.items()}
    # Rewritten bytecode is listed without a hash, as pip does; removed bytecode loses its row.
    rows.update({relative(installation.root / name, base): None for name in applied.bytecode})
    rows.update({relative(path, base): record.Entry() for path in compiled if path.is_relative_to(base)})
    data = record.updated(original.data, rows)
    overlay.set(installation.record, FileImage(data, original.mode, stamp, original.owner))


def restore(overlay: Overlay, installation: Installation, applied: Applied) -> None:
    """Restore RECORD on ``overlay`` byte for byte; if it changed since, restore only the rows of this series."""
    assert installation.record is not None and installation.dist_info is not None and applied.record is not None
    current = overlay.get(installation.record)
    original = applied_state.restore(Ground.of(installation), applied.record, installation.record)
    ours = _is_ours(installation, applied)
    if current is None or record.same(original.data, current.data, ours):
        overlay.set(installation.record, original)
        return
    before, now = record.selected(original.data, ours), record.selected(current.data, ours)
    base = installation.dist_info.parent
    changed = {relative(installation.root / path, base) for path in (*applied.files, *applied.bytecode)}
    rows: dict[str, record.Entry | None] = {path: before.get(path) for path in {*now, *(changed & set(before))}}
    overlay.set(installation.record, current._replace(data=record.updated(current.data, rows)))


def _is_ours(installation: Installation, applied: Applied) -> Callable[[bytes], bool]:
    """Return a predicate for rows of a target, of its bytecode, or of the state."""
    assert installation.dist_info is not None
    base = installation.dist_info.parent
    names = {_bytes(relative(installation.root / path, base)) for path in (*applied.files, *applied.bytecode)}
    state = _bytes(f"{relative(installation.state_dir, base)}/")
    # Compared as bytes: creating path objects for a million rows takes most of a minute.
    places = _cached_sources(applied, installation)
    sources = {
        (_bytes(f"{relative(directory, base)}/"), _bytes(source.stem)): source
        for directory, found in places.items()
        for source in found
    }

    def ours(path: bytes) -> bool:
        if path in names or path.startswith(state):
            return True
        if not path.endswith(b".pyc"):
            return False
        at = path.rfind(b"/") + 1
        dot = path.find(b".", at)
        while dot >= 0:  # a stem may have dots itself
            source = sources.get((path[:at], path[at:dot]))
            if source is not None:
                file = base / path.decode("utf-8", "surrogateescape")
                if bytecode.variant_of(file, source, installation.pycache_prefix):
                    return True
            dot = path.find(b".", dot + 1)
        return False

    return ours


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _cached_sources(applied: Applied, installation: Installation) -> dict[Path, list[Path]]:
    """Return the targets by each directory that may hold their bytecode."""
    places: dict[Path, list[Path]] = {}
    for name in applied.files:
        source = installation.root / name
        if source.suffix == ".py":
            for directory in [source.parent, *bytecode.cache_directories(source, installation.pycache_prefix)]:
                places.setdefault(directory, []).append(source)
    return places


def relative(path: Path, base: Path) -> str:
    """Return ``path`` as written in RECORD and state: relative to ``base`` if it lies below."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
