"""Draft changes to the patches directory elsewhere, so that an invalid draft is never written to it."""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from gaudi_patch.authoring.lock import release_of
from gaudi_patch.disk import Disk, FileImage
from gaudi_patch.errors import GaudiPatchError, bad_manifest
from gaudi_patch.series import lock, patch_files
from gaudi_patch.series.manifest import Manifest, Patch, Series

WIDTH = 120


class NewPatch(NamedTuple):
    """A patch whose text no release has yet. ``source``: the patch that it was ported from, or ""."""

    patch: Patch
    diff: bytes
    source: str


@contextmanager
def draft(directory: Path) -> Iterator[Path]:
    """Yield a copy of the patches directory for changes and validation; errors name the original files."""
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-draft-") as scratch:
        folder = Path(scratch, "patches")
        shutil.copytree(directory, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        try:
            yield folder
        except GaudiPatchError as error:
            error.file, error.message, error.hint = (
                text.replace(str(folder), str(directory)) for text in (error.file, error.message, error.hint)
            )
            error.details = [text.replace(str(folder), str(directory)) for text in error.details]
            raise


def write(folder: Path, patches: Mapping[str, bytes]) -> list[str]:
    """Write the diffs that differ from the existing ones, as files or as sources; return their names."""
    written = []
    for name, data in patches.items():
        target = folder / name
        if patch_files.is_source(name):
            files = patch_files.created(data, name)
            there = patch_files.sources(target) if target.is_dir() else {}
            if files == there:
                continue
            for path in there:
                (target / path).unlink()
            for path, content in files.items():
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (target / path).write_bytes(content)
        else:
            if target.is_file() and target.read_bytes() == data:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        written.append(name)
    return written


def publish(drafted: Path, directory: Path) -> None:
    """Update ``directory`` to the draft: new files first, and the lock, which makes them effective, last."""
    disk = Disk()
    new, old = _files(drafted), _files(directory)
    last = (lock.SOURCE, lock.NAME)
    for name in [*sorted(set(new) - set(last)), *(name for name in last if name in new)]:
        if old.get(name) == new[name]:
            continue
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.with_name(f".{target.name}.new")
        disk.unlink(temp)
        disk.write_new(temp, FileImage(new[name], 0o644))
        disk.replace(temp, target)
        disk.sync_directory(target.parent)
    for name in set(old) - set(new):
        disk.unlink(directory / name)


def _files(folder: Path) -> dict[str, bytes]:
    """Return all files of a patches directory, except those left by editors and interpreters."""
    return {
        name.as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not patch_files.is_litter(name := path.relative_to(folder))
    }


def add_series(folder: Path, manifest: Manifest, old: Series, new: str, names: Sequence[str]) -> None:
    """Add the series ``new`` to the drafted manifest.toml: before ``old`` if it is newer, else after it."""
    file = folder / lock.SOURCE
    lines = file.read_text(encoding="utf-8").split("\n")
    entry = ["[[series]]", f'versions = "=={new}"', *_array("patches", names), ""]
    first, end = _block(lines, "[[series]]", f'versions = "{old.versions}"', manifest)
    at = first if Version(new) > Version(release_of(old)) else end
    file.write_text("\n".join([*lines[:at], *entry, *lines[at:]]), encoding="utf-8")


def add_patch(folder: Path, new: NewPatch) -> None:
    """Add a patch to the drafted manifest.toml: before its source, or at the end if it has none."""
    file = folder / lock.SOURCE
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    entry = [f"[patch.{json.dumps(new.patch.name)}]"]
    for key in ("title", "why", "upstream", "remove_when"):
        entry.append(f"{key} = {json.dumps(getattr(new.patch, key), ensure_ascii=False)}")
    if new.patch.capabilities:
        entry += _array("capabilities", new.patch.capabilities)
    head = f"[patch.{json.dumps(new.source)}]"
    at = lines.index(head) if head in lines else len(lines)
    around = ([*entry, ""], lines[at:]) if head in lines else (["", *entry], [])
    file.write_text("\n".join([*lines[:at], *around[0], *around[1], ""]), encoding="utf-8")


def _block(lines: Sequence[str], head: str, key: str, manifest: Manifest) -> tuple[int, int]:
    """Return the first line numbers of the table that contains the line ``key``, and of the next table."""
    heads = [number for number, line in enumerate(lines) if line.startswith("[")] + [len(lines)]
    for first, end in pairwise(heads):
        if lines[first] == head and key in lines[first:end]:
            return first, end
    raise bad_manifest(f"has no table {head} with the line {key}", str(manifest.file))


def _array(key: str, values: Sequence[str]) -> list[str]:
    """Return a TOML array in the manifest's style: on one line if it fits."""
    items = ", ".join(json.dumps(value) for value in values)
    line = f"{key} = [{items}]"
    if len(line) <= WIDTH:
        return [line]
    wrapped = textwrap.wrap(f"{items},", WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{key} = [", *(f"    {part}" for part in wrapped), "]"]
