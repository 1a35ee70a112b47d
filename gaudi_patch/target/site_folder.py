"""What one sys.path entry holds of a package: its metadata, and what ``import`` would take from there.

Folders are listed and the first lines of METADATA read by hand: importlib.metadata costs 35 ms, answers with the
first of several, and gives None for the version when that one is broken.
"""

# ruff: noqa: PTH112, PTH113, PTH118, PTH208
# Why: entries of sys.path are strings; os.path is several times faster here.

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

#: Follows the links of a path: os.path.realpath, or for an image the same relative to the image's root.
Resolve = Callable[[str], str]

METADATA_KINDS = frozenset({"dist-info", "egg-info", "egg-link", "egg"})


def normalised(name: str) -> str:
    """A distribution name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class DistInfo(NamedTuple):
    """A valid dist-info folder: ``version`` as METADATA writes it, ``url`` where it was installed from, or ''."""

    path: str
    version: str
    has_record: bool
    editable: bool
    url: str
    #: (3, 11) where WHEEL's tag says so
    python: tuple[int, int] | None


class Importable(NamedTuple):
    """What ``import`` finds in one entry: a package, module, zip, or namespace (taken only as a last resort)."""

    path: str
    kind: str


@dataclass(eq=False, repr=False)
class SiteFolder:
    """What one entry holds. Paths have their links followed, but for their last part."""

    path: str
    infos: list[DistInfo] = field(default_factory=list)
    #: dist-info folders without a usable METADATA, each with the reason
    broken: list[tuple[str, str]] = field(default_factory=list)
    #: .egg-info, .egg-link and .egg
    legacy: list[str] = field(default_factory=list)
    #: ``~mcache``: what an interrupted pip left
    leftovers: list[str] = field(default_factory=list)
    found: Importable | None = None


def scan(entry: str, package: str, resolve: Resolve = os.path.realpath) -> SiteFolder:
    """Read one entry of sys.path; one that does not exist holds nothing, one that cannot be read raises OSError."""
    path = resolve(entry)
    if os.path.isfile(path):
        return SiteFolder(path, found=_in_zip(path, package))
    try:
        names = sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return SiteFolder(path)
    folder = SiteFolder(path, found=_importable(path, package, names, resolve))
    for name in names:
        full = os.path.join(path, name)
        stem, _, kind = name.rpartition(".")
        if name.startswith("~") and _is_leftover(name, package):
            folder.leftovers.append(full)
        elif kind not in METADATA_KINDS or normalised(stem.partition("-")[0]) != package:
            continue
        elif kind == "dist-info":
            info = _dist_info(full, package, resolve)
            if isinstance(info, DistInfo):
                folder.infos.append(info)
            else:
                folder.broken.append((full, info))
        else:
            folder.legacy.append(full)
    return folder


def _is_leftover(name: str, package: str) -> bool:
    """Whether an interrupted pip left this: it overwrites the start of a name with ``~`` and some odd characters."""
    rest = name.lstrip("~-.=%0123456789")
    tail = re.split(r"[-.]", rest, maxsplit=1)[0].lower()
    return len(tail) >= 3 and package.endswith(tail)


def _importable(path: str, package: str, names: list[str], resolve: Resolve) -> Importable | None:
    """What FileFinder takes from a folder: a package, then a module, then a part of a namespace package."""
    folder = os.path.join(path, package)
    is_folder = package in names and os.path.isdir(resolve(folder))  # its name as spelled, whatever the file system
    if is_folder:
        inside = os.listdir(resolve(folder))
        if any(_is_module(name, "__init__") for name in inside):
            return Importable(folder, "package")
    for name in names:
        if _is_module(name, package):
            return Importable(os.path.join(path, name), "module")
    return Importable(folder, "namespace") if is_folder else None


def _is_module(name: str, module: str) -> bool:
    """Whether the file ``name`` is source, legacy bytecode or an extension of ``module``."""
    return (
        name.startswith(module + ".") and re.fullmatch(r"(py|pyc|([\w-]+\.)?so)", name[len(module) + 1 :]) is not None
    )


def _in_zip(path: str, package: str) -> Importable | None:
    import zipfile  # 10 ms, and hardly ever needed

    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inside = any(name.startswith((f"{package}/__init__.", f"{package}.")) for name in names)
    return Importable(path, "zip") if inside else None


def _dist_info(path: str, package: str, resolve: Resolve) -> DistInfo | str:
    """The dist-info folder at ``path``, or why it is not valid."""
    headers = _headers(os.path.join(path, "METADATA"), resolve)
    if headers is None:
        return "it has no METADATA file"
    if normalised(headers.get("name", "")) != package:
        return f"its METADATA names {headers.get('name') or 'no package'}"
    if not headers.get("version"):
        return "its METADATA names no version"
    url, editable = _direct_url(os.path.join(path, "direct_url.json"), resolve)
    tag = re.match(r"cp(\d)(\d+)-cp\1\2", (_headers(os.path.join(path, "WHEEL"), resolve) or {}).get("tag", ""))
    return DistInfo(
        path=path,
        version=headers["version"],
        has_record=os.path.isfile(resolve(os.path.join(path, "RECORD"))),
        editable=editable,
        url=url,
        python=(int(tag[1]), int(tag[2])) if tag else None,
    )


def _headers(path: str, resolve: Resolve) -> dict[str, str] | None:
    """The first value of each header of an RFC 822 file such as METADATA, by lower-case name; None without file."""
    found: dict[str, str] = {}
    try:
        with open(resolve(path), encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if not line.strip():
                    break
                name, colon, value = line.partition(":")
                if colon:  # a continuation line starts with a space, so that its name is never looked for
                    found.setdefault(name.lower(), value.strip())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return found


def _direct_url(path: str, resolve: Resolve) -> tuple[str, bool]:
    """The URL that a package was installed from, and whether the installation is editable (PEP 610)."""
    try:
        with open(resolve(path), encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return "", False
    plain = re.search(r'"url"\s*:\s*"([^"\\]*)"', text)
    if plain and '"editable"' not in text:
        return plain[1], False  # json costs 2 ms, and most wheels that have this file came from a plain path
    import json

    try:
        data = json.loads(text)
        return str(data.get("url", "")), data.get("dir_info", {}).get("editable") is True
    except (ValueError, AttributeError):
        # A wheel installation does not need this file; an editable one has no package folder and is refused.
        return "", False
