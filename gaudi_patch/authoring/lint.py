"""`dev lint`: the manifest, the lock and the diffs held against the wheels."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.authoring import lock, wheels
from gaudi_patch.disk import Disk, Image, read_image
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.manifest import default_directory, load
from gaudi_patch.report import Result, Text, narrate


def lint(directory: Path | None, *, write: bool) -> Result:
    """Apply every series to its wheel in memory, compile the results, and compare the lock; ``write`` renews it."""
    directory = directory or default_directory()
    manifest = load(directory, require_lock=False)
    data = lock.generate(
        directory, lambda version: wheels.fetch(manifest.package, version), lambda text: narrate([text])
    )
    file = directory / "manifest.lock"
    existing = read_image(file)
    result = Result("dev lint", data={"series": [series.id for series in manifest.series], "written": False})
    if existing is not None and existing.data == data:
        result.blocks.append(Text(f"{len(manifest.series)} series apply, compile, and match the lock", "good"))
        return result
    if not write:
        fault = GaudiPatchError(
            Exit.USAGE,
            "lock-stale",
            "differs from what the manifest, the patches and the wheels give",
            "gaudi-patch dev lint --write",
            str(file),
        )
        return Result("dev lint", Exit.USAGE, result.data, errors=[fault])
    disk = Disk()
    temp = file.with_name(f"{file.name}.new")
    disk.unlink(temp)
    disk.write_new(temp, Image(data, 0o644))
    disk.replace(temp, file)
    disk.sync_directory(directory)
    result.data["written"] = True
    result.blocks.append(Text(f"wrote {file}: {len(manifest.series)} series", "good"))
    return result
