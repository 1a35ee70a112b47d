"""One sys.path entry: a package's metadata there, and what ``import`` would load from it.

Directories and METADATA are read by hand: importlib.metadata takes 35 ms, returns the first of several, and gives
None as the version if that one is broken.
"""

# ruff: noqa: PTH118, PTH202, PTH208
# Why: entries of sys.path are strings; os.path is several times faster here.

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.opening import is_directory, is_file, is_there
from gaudi_patch.reading import TEXT_LIMIT, UnsuitableFileError, parse_json, read_bytes, read_text

#: Follows the links of a path: os.path.realpath, or for an image the same relative to the image's root.
Resolve = Callable[[str], str]

METADATA_KINDS = frozenset({"dist-info", "egg-info", "egg-link", "egg"})


def normalised(name: str) -> str:
    """Return a distribution name normalised by PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


class DistInfo(NamedTuple):
    """A valid dist-info directory: ``version`` as in METADATA, ``url`` of its source, or ''."""

    path: str
    version: str
    has_record: bool
    editable: bool
    url: str
    #: (3, 11) if WHEEL's tag gives it
    python: tuple[int, int] | None


class Importable(NamedTuple):
    """What ``import`` finds in one entry: a package, module, zip, or namespace (used only as a last resort)."""

    path: str
    kind: str


@dataclass(eq=False, repr=False)
class SiteFolder:
    """The content of one entry. Links in paths are followed, except in the last part."""

    path: str
    infos: list[DistInfo] = field(default_factory=list)
    #: dist-info directories without a usable METADATA, each with the reason
    broken: list[tuple[str, str]] = field(default_factory=list)
    #: .egg-info, .egg-link and .egg
    legacy: list[str] = field(default_factory=list)
    #: ``~mcache``: left over from an interrupted pip
    leftovers: list[str] = field(default_factory=list)
    found: Importable | None = None


def scan(entry: str, package: str, resolve: Resolve = os.path.realpath) -> SiteFolder:
    """Read one entry of sys.path; a missing entry is empty, an unreadable entry raises OSError."""
    path = resolve(entry)
    if is_file(Path(path)):
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
    """Return whether an interrupted pip left this: pip overwrites the start of a name with ``~`` and odd characters."""
    rest = name.lstrip("~-.=%0123456789")
    tail = re.split(r"[-.]", rest, maxsplit=1)[0].lower()
    return len(tail) >= 3 and package.endswith(tail)


def _importable(path: str, package: str, names: list[str], resolve: Resolve) -> Importable | None:
    """Return what FileFinder loads from a directory: a package, else a module, else part of a namespace package."""
    folder = os.path.join(path, package)
    # Its name as spelled, whatever the file system.
    is_folder = package in names and is_directory(Path(resolve(folder)))
    if is_folder:
        inside = os.listdir(resolve(folder))
        if any(_is_module(name, "__init__") for name in inside):
            return Importable(folder, "package")
    for name in names:
        if _is_module(name, package):
            return Importable(os.path.join(path, name), "module")
    return Importable(folder, "namespace") if is_folder else None


def _is_module(name: str, module: str) -> bool:
    """Return whether the file ``name`` is source, legacy bytecode or an extension of ``module``."""
    return (
        name.startswith(module + ".") and re.fullmatch(r"(py|pyc|([\w-]+\.)?so)", name[len(module) + 1 :]) is not None
    )


def _in_zip(path: str, package: str) -> Importable | None:
    import zipfile  # takes 10 ms, and is rarely needed

    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # import loads nothing from a damaged archive either
        return None
    inside = any(name.startswith((f"{package}/__init__.", f"{package}.")) for name in names)
    return Importable(path, "zip") if inside else None


def _dist_info(path: str, package: str, resolve: Resolve) -> DistInfo | str:
    """Return the dist-info directory at ``path``, or why it is not valid."""
    try:
        return _read_dist_info(path, package, resolve)
    except OSError as error:
        # Another user's file is not a fault of the installation; a FIFO, or a link to a device or itself, is.
        if not isinstance(error, UnsuitableFileError) and error.errno != errno.ELOOP:
            raise
        names = [name for name in ("METADATA", "WHEEL", "direct_url.json") if _is_odd(os.path.join(path, name))]
        return f"{' and '.join(names)} cannot be read ({error.strerror})"


def _is_odd(path: str) -> bool:
    file = Path(path)
    return is_there(file) and not (is_file(file) and os.path.getsize(path) <= TEXT_LIMIT)


def _read_dist_info(path: str, package: str, resolve: Resolve) -> DistInfo | str:
    metadata = headers(os.path.join(path, "METADATA"), resolve)
    if metadata is None:
        return "it has no METADATA file"
    if normalised(metadata.get("name", "")) != package:
        return f"its METADATA names {metadata.get('name') or 'no package'}"
    if not metadata.get("version"):
        return "its METADATA names no version"
    url, editable = _direct_url(os.path.join(path, "direct_url.json"), resolve)
    tag = re.match(r"cp(\d)(\d+)-cp\1\2", (headers(os.path.join(path, "WHEEL"), resolve) or {}).get("tag", ""))
    return DistInfo(
        path=path,
        version=metadata["version"],
        has_record=is_file(Path(resolve(os.path.join(path, "RECORD")))),
        editable=editable,
        url=url,
        python=(int(tag[1]), int(tag[2])) if tag else None,
    )


def headers(path: str, resolve: Resolve) -> dict[str, str] | None:
    """Return the first value of each header of an RFC 822 file such as METADATA, by lower-case name.

    Returns None if the file is missing. Raises UnsuitableFileError if it is not a regular file, or too large to be
    metadata.
    """
    fields: dict[str, str] = {}
    try:
        text = read_text(resolve(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    for line in text.splitlines():
        if not line.strip():
            break
        name, colon, value = line.partition(":")
        if colon:  # a continuation line starts with a space, so its name never matches
            fields.setdefault(name.lower(), value.strip())
    return fields


def _direct_url(path: str, resolve: Resolve) -> tuple[str, bool]:
    """Return the URL that a package was installed from, and whether the installation is editable (PEP 610).

    An installation from a wheel does not need this file, and an editable one without it is refused for lack of a
    package directory. So damaged content counts as unknown.
    """
    try:
        data = read_bytes(resolve(path))
    except (FileNotFoundError, NotADirectoryError):
        return "", False
    try:
        document = parse_json(data)
    except ValueError:
        return "", False
    url = document.get("url") if isinstance(document, dict) else None
    about = document.get("dir_info") if isinstance(document, dict) else None
    editable = isinstance(about, dict) and about.get("editable") is True
    return (url, editable) if isinstance(url, str) else ("", editable)
