"""manifest.lock: generated from manifest.toml, the patches and the pristine wheels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from gaudi_patch.authoring import source, wheels
from gaudi_patch.disk import sha256
from gaudi_patch.engine import bytecode, plan
from gaudi_patch.errors import bad_manifest
from gaudi_patch.series import diff, lock
from gaudi_patch.series.lock import Content
from gaudi_patch.series.manifest import LockedFile, Manifest, Patch, Series


def release_of(series: Series) -> str:
    """Return the one release of a series."""
    version = series.versions.removeprefix("==")
    if not series.versions.startswith("==") or any(sign in version for sign in ",*<>=!~ "):
        raise bad_manifest(
            f"series {series.id}: a lock needs exactly one release (==X.Y.Z), not {series.versions}", lock.SOURCE
        )
    return version


def generate(
    directory: Path,
    wheel_of: Callable[[str], Path],
    say: Callable[[str], None] = lambda _: None,
    known: Content | None = None,
) -> bytes:
    """Apply each series to its wheel, compile every result, and return the lock's bytes.

    known: an older lock; its hashes are reused, without reading the wheel, for every release whose patches are the
    same. Raises the engine's errors if a patch does not apply or a result does not compile.
    """
    read = source.load(directory)
    used = {name for series in read.series for name in series.patches}  # only some of the built-in patches
    patches = {name: _read(read, patch) for name, patch in read.patches.items() if name in used}
    manifest = read._replace(patches=patches)
    hashes = _hashes_of(known) if known else {}
    series = []
    for entry in manifest.series:
        files = hashes.get(_key(entry, patches))
        if files is None:
            say(f"series {entry.id}")
            files = _hashes(manifest, entry, wheel_of(release_of(entry)))
        series.append(entry._replace(files=files))
    content = Content(
        manifest.package,
        tuple(series),
        patches,
        manifest.capabilities,
        manifest.refused,
        manifest.upstream,
        manifest.pairs,
    )
    return lock.render(content, (directory / lock.SOURCE).read_bytes())


def _read(manifest: Manifest, patch: Patch) -> Patch:
    data = manifest.read_patch(patch.name)
    hunks: Counter[str] = Counter()
    for change in diff.parse(data, str(manifest.folder(patch.name) / patch.name)):
        hunks[change.path] += len(change.hunks)
    return patch._replace(sha256=sha256(data), hunks=dict(hunks))


def _key(series: Series, patches: Mapping[str, Patch]) -> tuple[str, ...]:
    """Return a key for the hashes of a series: its release and the sha256 of its patches, in order."""
    return (series.versions, *(patches[name].sha256 for name in series.patches))


def _hashes_of(known: Content) -> dict[tuple[str, ...], Mapping[str, LockedFile]]:
    return {_key(series, known.patches): series.files for series in known.series}


def _hashes(manifest: Manifest, series: Series, wheel: Path) -> dict[str, LockedFile]:
    paths = sorted({change.path for _, change in plan.parse_series(manifest, series)})
    pristine = {path: wheels.read(wheel, path) for path in paths}
    built = plan.build(manifest, series, pristine, locked=None)
    sources = [
        bytecode.Source(Path(file.path), file.after.data)
        for file in built.files
        if file.after and file.path.endswith(".py")
    ]
    bytecode.compile_sources(sources, None, own=True)
    return {
        file.path: LockedFile(file.before.sha256 if file.before else None, file.after.sha256 if file.after else None)
        for file in built.files
    }
