"""`dev lint`: the manifest, the lock and the diffs held against the wheels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from gaudi_patch.authoring import lock, wheels
from gaudi_patch.disk import Disk, Image, read_image
from gaudi_patch.errors import Exit, GaudiPatchError, bad_manifest
from gaudi_patch.output.report import Result, Table, Text, narrate
from gaudi_patch.series import pairs
from gaudi_patch.series.diff import Kind, parse
from gaudi_patch.series.manifest import Manifest, default_directory, load
from gaudi_patch.smoke import levels


def lint(directory: Path | None, *, write: bool, known: Mapping[str, Path] | None = None) -> Result:
    """Apply every series to its wheel in memory, compile the results, and compare the lock; ``write`` renews it.

    known: wheels of releases that PyPI is not to be asked for.
    """
    directory = directory or default_directory()
    manifest = load(directory, require_lock=False)
    _refuse_strays(manifest)
    given = known or {}
    data = lock.generate(
        directory,
        lambda version: given.get(version) or wheels.fetch(manifest.package, version),
        lambda text: narrate([text]),
    )
    file = directory / "manifest.lock"
    existing = read_image(file)
    sizes = routing(manifest)
    names = [series.id for series in manifest.series]
    result = Result("dev lint", data={"series": names, "routing_lines": sizes, "written": False})
    result.blocks.append(_sizes(manifest, sizes))
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


def routing(manifest: Manifest) -> dict[str, int]:
    """By series, the lines that it adds to and removes from files of the release; files of its own do not count."""
    changed = {
        name: sum(
            tag != b" "
            for one in parse((manifest.directory / name).read_bytes(), name)
            if one.kind is not Kind.CREATE
            for hunk in one.hunks
            for tag, _ in hunk.lines
        )
        for name in manifest.patches
    }
    return {series.id: sum(changed[name] for name in series.patches) for series in manifest.series}


def _sizes(manifest: Manifest, sizes: Mapping[str, int]) -> Table:
    rows = [(series.id, str(len(series.patches)), str(sizes[series.id])) for series in manifest.series]
    return Table(("series", "patches", "lines changed"), rows, "Lines changed in the release's own files")


def _refuse_strays(manifest: Manifest) -> None:
    """No diff lies about that no series uses, names and pairs can be read, and no release has two series."""
    there = {str(path.relative_to(manifest.directory)) for path in manifest.directory.rglob("*.patch")}
    if stray := sorted(there - set(manifest.patches)):
        raise bad_manifest(f"no series uses {', '.join(stray)}", str(manifest.file), hint="list it, or remove it")
    for capability in manifest.capabilities.values():
        if unknown := sorted(set(capability.smoke) - set(levels.names())):
            raise bad_manifest(f"capability {capability.id}: no smoke level {', '.join(unknown)}", str(manifest.file))
    for pair in manifest.pairs:
        try:
            pairs.holds(pair["vllm_gaudi"], Version("0"))
            pairs.fitting(manifest, Version("0"))
        except ValueError as error:  # what specifiers and versions raise is one, too
            raise bad_manifest(f"pairs of {pair['lmcache']}: {error}", str(manifest.file)) from error
    for series in manifest.series:
        manifest.verdict(lock.release_of(series))  # raises where two claim the release
