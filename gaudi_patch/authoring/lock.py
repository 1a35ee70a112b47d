"""manifest.lock: generated from the manifest, the patches and the pristine wheels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaudi_patch.authoring import wheels
from gaudi_patch.disk import sha256
from gaudi_patch.engine import bytecode, plan
from gaudi_patch.errors import bad_manifest
from gaudi_patch.series.manifest import SCHEMA, Manifest, Series, load, parsed_copy


def release_of(series: Series) -> str:
    """The one release that a series is for."""
    version = series.versions.removeprefix("==")
    if not series.versions.startswith("==") or any(sign in version for sign in ",*<>=!~ "):
        raise bad_manifest(
            f"series {series.id}: a lock needs exactly one release (==X.Y.Z), not {series.versions}", "manifest.toml"
        )
    return version


def generate(directory: Path, wheel_of: Callable[[str], Path], say: Callable[[str], None] = lambda _: None) -> bytes:
    """The lock's bytes. Each series is applied to its wheel, and every result compiled.

    Raises what the engine raises when a patch does not apply or a result does not compile.
    """
    manifest = load(directory, require_lock=False)
    names = sorted({name for series in manifest.series for name in series.patches})
    digests = {name: sha256(_read(directory / name, manifest)) for name in names}
    unlocked = manifest._replace(lock={"schema": SCHEMA, "patches": digests, "series": {}})
    entries: dict[str, Any] = {}
    for series in manifest.series:
        say(f"series {series.id}")
        entries[series.id] = {
            "patches": list(series.patches),
            "files": _hashes(unlocked, series, wheel_of(release_of(series))),
        }
    document = {"schema": SCHEMA, "manifest": parsed_copy(manifest.file), "patches": digests, "series": entries}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _hashes(manifest: Manifest, series: Series, wheel: Path) -> dict[str, list[str | None]]:
    paths = sorted({one.path for _, one in plan.parse_series(manifest, series)})
    pristine = {path: wheels.read(wheel, path) for path in paths}
    built = plan.build(manifest, series, pristine, locked=None)
    sources = [
        bytecode.Source(Path(one.path), one.after.data) for one in built.files if one.after and one.path.endswith(".py")
    ]
    bytecode.compile_sources(sources, None, own=True)
    return {
        one.path: [one.before.sha256 if one.before else None, one.after.sha256 if one.after else None]
        for one in built.files
    }


def _read(path: Path, manifest: Manifest) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise bad_manifest(f"lists {path.name}, which cannot be read: {error.strerror}", str(manifest.file)) from error
