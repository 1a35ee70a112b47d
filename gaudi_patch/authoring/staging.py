"""The patches folder with one more series: drafted beside it, so that what does not hold is never written there."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from gaudi_patch.authoring import worktree
from gaudi_patch.authoring.lock import release_of
from gaudi_patch.disk import Disk, Image
from gaudi_patch.errors import bad_manifest
from gaudi_patch.series.manifest import Manifest, Patch, Series

WIDTH = 120


class NewPatch(NamedTuple):
    """A patch that the folder does not have yet. ``source``: the one that it was ported from, or ""."""

    patch: Patch
    diff: bytes
    source: str


def draft(manifest: Manifest, folder: Path, old: Series, new: str, names: Sequence[str], fresh: list[NewPatch]) -> None:
    """Copy the patches folder to ``folder``, and add the series ``new`` and its patches there; not the lock."""
    shutil.copytree(manifest.directory, folder)
    for one in fresh:
        target = folder / one.patch.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(one.diff)
    text = manifest.file.read_text(encoding="utf-8")
    text = _with_series(text, manifest, old, new, names)
    for one in fresh:
        text = _with_patch(text, one)
    (folder / "manifest.toml").write_text(text, encoding="utf-8")


def publish(drafted: Path, directory: Path, names: Iterable[str]) -> None:
    """Take over what was drafted: the patches first, the lock, which makes it hold, last."""
    worktree.write_patches(directory, {name: (drafted / name).read_bytes() for name in names})
    disk = Disk()
    for name in ("manifest.toml", "manifest.lock"):
        temp = directory / f".{name}.new"
        disk.unlink(temp)
        disk.write_new(temp, Image((drafted / name).read_bytes(), 0o644))
        disk.replace(temp, directory / name)
        disk.sync_directory(directory)


def _with_series(text: str, manifest: Manifest, old: Series, new: str, names: Sequence[str]) -> str:
    """The series before that of ``old``, after which the manifest lists older ones; or behind it."""
    lines = text.split("\n")
    entry = ["[[series]]", f'versions = "=={new}"', *_array("patches", names)]
    entry += [*_array("capabilities", old.capabilities), ""]
    first, end = _block(lines, "[[series]]", f'versions = "{old.versions}"', manifest)
    at = first if Version(new) > Version(release_of(old)) else end
    return "\n".join([*lines[:at], *entry, *lines[at:]])


def _with_patch(text: str, new: NewPatch) -> str:
    """The entry before that of its source; at the end where it has none."""
    keys = ("why", "upstream", "remove_when")
    entry = [f'[patch."{new.patch.name}"]']
    entry += [f"{key} = {json.dumps(getattr(new.patch, key), ensure_ascii=False)}" for key in keys]
    lines = text.rstrip("\n").split("\n")
    head = f'[patch."{new.source}"]'
    if head not in lines:
        return "\n".join([*lines, "", *entry, ""])
    at = lines.index(head)
    return "\n".join([*lines[:at], *entry, "", *lines[at:], ""])


def _block(lines: Sequence[str], head: str, key: str, manifest: Manifest) -> tuple[int, int]:
    """Where the table begins that holds the line ``key``, and where the next one does."""
    heads = [number for number, line in enumerate(lines) if line.startswith("[")] + [len(lines)]
    for first, end in pairwise(heads):
        if lines[first] == head and key in lines[first:end]:
            return first, end
    raise bad_manifest(f"has no table {head} with the line {key}", str(manifest.file))


def _array(key: str, values: Sequence[str]) -> list[str]:
    """A TOML array as the manifest has them: in one line where it fits."""
    items = ", ".join(json.dumps(value) for value in values)
    line = f"{key} = [{items}]"
    if len(line) <= WIDTH:
        return [line]
    wrapped = textwrap.wrap(f"{items},", WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{key} = [", *(f"    {part}" for part in wrapped), "]"]
