"""The file tree that apply and rollback produce, laid on an overlay: targets, bytecode, state, RECORD."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import FileImage
from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import bytecode, listing
from gaudi_patch.engine.applied import Applied, AppliedFile, Saved
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.listing import relative
from gaudi_patch.engine.overlay import Overlay
from gaudi_patch.engine.plan import Plan
from gaudi_patch.inside.compile_pyc import Output
from gaudi_patch.opening import is_directory, look_at
from gaudi_patch.target.installation import Installation

SECOND = 1_000_000_000


class Facts(NamedTuple):
    """The facts in state.json other than the files."""

    patches: Mapping[str, str]
    tool: str
    stamp_ns: int
    offset: bool = False
    previous: Applied | None = None  # the series that this one replaces
    unproved: bool = False


def source_date_ns(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return SOURCE_DATE_EPOCH in ns, the latest time to write in a reproducible layer; None if unset."""
    epoch = environ.get("SOURCE_DATE_EPOCH", "")
    return min(time.time_ns(), int(epoch) * SECOND) if epoch.isascii() and epoch.isdigit() else None


def stamp_ns(environ: Mapping[str, str] = os.environ) -> int:
    """Return the mtime for written files in ns: now, or SOURCE_DATE_EPOCH if earlier."""
    date = source_date_ns(environ)
    return time.time_ns() if date is None else date


def saved(image: FileImage) -> Saved:
    """Return the state's record of a pristine file, with an mtime no later than SOURCE_DATE_EPOCH, as in a layer."""
    date = source_date_ns()
    if date is not None and image.mtime_ns is not None:
        image = image._replace(mtime_ns=min(image.mtime_ns, date))
    return Saved.of(image)


def apply(overlay: Overlay, installation: Installation, plan: Plan, facts: Facts) -> Applied:
    """Lay the patched files, their bytecode, the state and RECORD on ``overlay``; return the new state.

    The overlay must show the pristine tree. Every new .py is compiled with the target's interpreter.
    """
    stamped = _stamped(overlay, installation, plan, facts.stamp_ns)
    sources = [path for path, image in stamped.items() if path.endswith(".py") and image is not None]
    compiled, old_bytecode = _recompile(overlay, installation, stamped, sources)
    for path, image in stamped.items():
        overlay.set(installation.root / path, image)
    for name, old in old_bytecode.items():
        overlay.set(Path(name), None, volatile=True)
        _keep_backup(overlay, installation, old, facts.stamp_ns)
    for file, cached in compiled.items():
        overlay.set(file, cached, volatile=True)
    applied = Applied(
        installation.package,
        installation.version,
        plan.series.id,
        facts.patches,
        plan.series.capabilities,
        {
            item.path: AppliedFile(
                saved(item.before) if item.before else None, item.after.sha256 if item.after else None
            )
            for item in plan.files
        },
        {relative(Path(name), installation.root): saved(old) for name, old in old_bytecode.items()},
        _saved_record(overlay, installation, facts.stamp_ns),
        tuple(_folders(installation, plan, stamped, compiled, facts.previous)),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.stamp_ns // SECOND)),
        facts.tool,
        facts.offset,
        facts.unproved,
        {relative(path, installation.root): image.sha256 for path, image in compiled.items()},
    )
    for item in plan.files:
        if item.before is not None:
            _keep_backup(overlay, installation, item.before, facts.stamp_ns)
    _write_state(overlay, installation, applied, facts.stamp_ns)
    if installation.record is not None:
        listing.update(overlay, installation, applied, stamped, compiled, facts.stamp_ns)
    return applied


def unapply(overlay: Overlay, installation: Installation, applied: Applied) -> list[Path]:
    """Lay the pristine tree on ``overlay``; return the directories to remove once they are empty.

    Backups are compared with their hashes. The caller must check whether targets were edited.
    """
    root, state_dir, ground = installation.root, installation.state_dir, Ground.of(installation)
    folders = [root / path for path in applied.directories]
    for path, content in applied.files.items():
        pristine = applied_state.restore(ground, content.before, root / path) if content.before else None
        overlay.set(root / path, pristine)
        if path.endswith(".py"):
            for variant in overlay.variants(root / path, installation.pycache_prefix):
                overlay.set(variant.path, None, volatile=True)
    for name, cached in applied.bytecode.items():
        overlay.set(root / name, applied_state.restore(ground, cached, root / name), volatile=True)
    if installation.record is not None and applied.record is not None:
        listing.restore(overlay, installation, applied)
    for file in _state_files(ground):
        overlay.set(file, None)
    caches = [folder / "__pycache__" for folder in folders]
    return [*folders, *caches, state_dir / applied_state.BACKUPS, state_dir]


def _stamped(overlay: Overlay, installation: Installation, plan: Plan, stamp: int) -> dict[str, FileImage | None]:
    """Return the images to write, each with an mtime that no timestamp .pyc of the old file can have.

    A .pyc records the second and size of its source: if both would be equal, the mtime is moved. A file that the
    previous series left identical keeps its mtime, because it is not rewritten.
    """
    images: dict[str, FileImage | None] = {}
    for file in plan.files:
        image = file.after
        now = overlay.on_disk(installation.root / file.path)
        if image is not None and now is not None and image.same_content(now):
            image = image._replace(mtime_ns=now.mtime_ns)
        elif image is not None:
            before = file.before
            clash = (
                before is not None
                and before.mtime_ns is not None
                and before.mtime_ns // SECOND == stamp // SECOND
                and len(before.data) == len(image.data)
            )
            image = image._replace(mtime_ns=stamp + SECOND if clash else stamp)
        images[file.path] = image
    return images


def _recompile(
    overlay: Overlay, installation: Installation, images: Mapping[str, FileImage | None], sources: Sequence[str]
) -> tuple[dict[Path, FileImage], dict[str, FileImage]]:
    """Compile all sources; return the new .pyc by path, and the old ones, which are all removed."""
    old: dict[str, FileImage] = {}
    requests = []
    places: list[list[tuple[Path, int]]] = []
    default = _variants_of_package(overlay, installation)
    for path in images:
        source = installation.root / path
        if not path.endswith(".py"):
            continue
        variants = overlay.variants(source, installation.pycache_prefix)
        for variant in variants:
            image = overlay.get(variant.path)
            assert image is not None
            old[str(variant.path)] = image
        if path not in sources:
            continue
        new = images[path]
        assert new is not None and new.mtime_ns is not None
        if overlay.get(source) is None:
            # A new module is cached like the package's own __init__, so that read-only images stay fast.
            init, prefix = installation.root / installation.package / "__init__.py", installation.pycache_prefix
            variants = [bytecode.sibling(variant, init, source, prefix) for variant in default]
        outputs, spots = [], []
        for variant in variants:
            if variant.tag != installation.cache_tag or installation.python is None:
                continue  # no interpreter here can write it; it is removed, and Python recreates it
            shape = old.get(str(variant.path)) or _default_image(overlay, default, variant)
            mode = bytecode.mode_of(shape.data)
            outputs.append(Output(variant.optimization, mode, new.mtime_ns // SECOND, len(new.data)))
            spots.append((variant.path, shape.mode))
        requests.append(bytecode.Source(source, new.data, tuple(outputs)))
        places.append(spots)
    results = bytecode.compile_sources(requests, installation.python, own=installation.own_interpreter)
    compiled = {}
    for request, spots, blobs in zip(requests, places, results, strict=True):
        new = images[relative(request.path, installation.root)]
        assert new is not None
        for (spot, bits), blob in zip(spots, blobs, strict=True):
            compiled[spot] = FileImage(blob, bits, new.mtime_ns, new.owner)
    return compiled, old


def _variants_of_package(overlay: Overlay, installation: Installation) -> list[bytecode.Variant]:
    source = installation.root / installation.package / "__init__.py"
    return [
        variant
        for variant in overlay.variants(source, installation.pycache_prefix)
        if variant.tag == installation.cache_tag
    ]


def _default_image(overlay: Overlay, default: Iterable[bytecode.Variant], variant: bytecode.Variant) -> FileImage:
    for existing in default:
        if existing.optimization == variant.optimization:
            image = overlay.get(existing.path)
            assert image is not None
            return image
    raise AssertionError(variant)


def _keep_backup(overlay: Overlay, installation: Installation, image: FileImage, stamp: int) -> None:
    file = installation.state_dir / applied_state.BACKUPS / image.sha256
    # The copy must not be readable by anyone who cannot read the original.
    private = not image.mode & 0o004
    overlay.set(file, FileImage(image.data, 0o600 | image.mode & 0o044, stamp, image.owner if private else None))


def _saved_record(overlay: Overlay, installation: Installation, stamp: int) -> Saved | None:
    if installation.record is None:
        return None
    image = overlay.get(installation.record)
    if image is None:
        return None
    _keep_backup(overlay, installation, image, stamp)
    return saved(image)


def _folders(
    installation: Installation,
    plan: Plan,
    images: Mapping[str, FileImage | None],
    compiled: Iterable[Path],
    previous: Applied | None,
) -> list[str]:
    """Return the directories that the series creates, parents first.

    These are the directories missing now, those of the previous series, and those with only files that the
    series creates: whatever created these files earlier also created their directories.
    """
    made = {installation.root / path for path in previous.directories} if previous else set()
    created = {installation.root / item.path for item in plan.files if item.before is None}
    for folder in {file.parent for file in created}:
        if is_directory(folder) and all(path in created or path.name == "__pycache__" for path in folder.iterdir()):
            made.add(folder)
    folders: dict[Path, None] = {}
    files = [installation.root / path for path, image in images.items() if image is not None]
    for file in [*files, *compiled]:
        folder = file.parent
        ours = []
        while folder in made or look_at(folder, follow=True) is None:
            ours.append(folder)
            folder = folder.parent
        folders.update(dict.fromkeys(reversed(ours)))
    return [relative(folder, installation.root) for folder in folders]


def _write_state(overlay: Overlay, installation: Installation, applied: Applied, stamp: int) -> None:
    wanted = applied.backups()
    for file in _state_files(Ground.of(installation)):
        if file.parent.name == applied_state.BACKUPS and file.name not in wanted:
            overlay.set(file, None)
    overlay.set(installation.state_dir / applied_state.STATE_FILE, FileImage(applied.to_bytes(), 0o644, stamp))


def _state_files(ground: Ground) -> list[Path]:
    """Return the existing files of the state, by the names that gaudi-patch uses; ignore other files."""
    backups = ground.state_dir / applied_state.BACKUPS
    backup_files = [backups / name for name in ground.bounds.names(backups) if re.fullmatch("[0-9a-f]{64}", name)]
    return backup_files + [
        ground.state_dir / name for name in ground.bounds.names(ground.state_dir) if name == applied_state.STATE_FILE
    ]
