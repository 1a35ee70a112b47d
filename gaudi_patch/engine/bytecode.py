"""Cached bytecode of changed modules: find every variant, remove it, and recompile it in the same mode.

If a tool changes a .py and leaves its unchecked-hash .pyc, the old code goes on running (PEP 552). The same happens
with a timestamp .pyc if size and second are equal.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.confined import Bounds
from gaudi_patch.disk import read_image
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.inside import compile_pyc
from gaudi_patch.opening import look_at
from gaudi_patch.target.ask import AskError, Fields, Problem, ask

Output = compile_pyc.Output

#: Seconds after which an interpreter is considered hung.
TIMEOUT = 120.0

#: Limit in bytes for all .pyc of a series in base64; LMCache's are under 4 MiB.
ANSWER_LIMIT = 64 * 1024 * 1024


class Variant(NamedTuple):
    """One cached .pyc of a source: its path, the interpreter's tag ("" for a legacy .pyc), its -O level."""

    path: Path
    tag: str
    optimization: str


class Source(NamedTuple):
    """A new source to check and compile: ``outputs`` are the .pyc wanted (empty: only check)."""

    path: Path
    data: bytes
    outputs: tuple[Output, ...] = ()


def cache_directories(source: Path, pycache_prefix: str | None = None) -> list[Path]:
    """Return the directories for cached bytecode of ``source`` and its neighbours."""
    directories = [source.parent / "__pycache__"]
    if pycache_prefix and Path(pycache_prefix).is_absolute():  # a relative prefix is a different place for each process
        directories.append(Path(pycache_prefix) / source.parent.relative_to(source.parent.anchor))
    return directories


def variants(source: Path, pycache_prefix: str | None = None, bounds: Bounds | None = None) -> list[Variant]:
    """Return every cached variant of ``source`` on disk, of any interpreter and -O level, including legacy files.

    Directories are confined to ``bounds``: a directory that links elsewhere is refused.
    """
    paths: list[Path] = []
    for directory in cache_directories(source, pycache_prefix):
        paths += [directory / name for name in _names(directory, bounds)]
    legacy = source.with_suffix(".pyc")
    info = look_at(legacy)
    if info is not None and (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
        paths.append(legacy)
    return [variant for path in paths if (variant := variant_of(path, source, pycache_prefix))]


def _names(directory: Path, bounds: Bounds | None) -> list[str]:
    if bounds is not None:
        return bounds.names(directory)
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - names alone
    except (FileNotFoundError, NotADirectoryError):
        return []


def variant_of(path: Path, source: Path, pycache_prefix: str | None = None) -> Variant | None:
    """Return ``path`` as a cached variant of ``source`` (PEP 3147); None if it belongs to another source.

    The directory counts as well as the name, since every package has an ``__init__``.
    """
    name = path.name
    if not name.startswith(f"{source.stem}.") or not name.endswith(".pyc"):
        return None
    if path.parent == source.parent:
        return Variant(path, "", "") if name == f"{source.stem}.pyc" else None
    if path.parent not in cache_directories(source, pycache_prefix):
        return None
    tag, _, optimization = name[len(source.stem) + 1 : -len(".pyc")].partition(".opt-")
    return Variant(path, tag, optimization) if tag and "." not in tag else None


def sibling(variant: Variant, source: Path, other: Path, pycache_prefix: str | None = None) -> Variant:
    """Return the path of the variant of ``other`` that corresponds to a ``variant`` of ``source``."""
    place = cache_directories(source, pycache_prefix).index(variant.path.parent)
    name = f"{other.stem}{variant.path.name[len(source.stem) :]}"
    return variant._replace(path=cache_directories(other, pycache_prefix)[place] / name)


def stale(source: Path, pycache_prefix: str | None = None, bounds: Bounds | None = None) -> list[Variant]:
    """Return cached variants that Python would run although they do not match ``source``, hiding its patched text.

    These are unchecked-hash files of another source, as far as this Python can tell (for its own version), and a
    legacy file whose source is missing.
    """
    image = read_image(source, bounds)
    if image is None:
        return [existing for existing in variants(source, pycache_prefix, bounds) if not existing.tag]
    variants_there = []
    for variant in variants(source, pycache_prefix, bounds):
        cached = read_image(variant.path, bounds) if variant.tag else None
        if cached is None or mode_of(cached.data) != "unchecked" or cached.data[:4] != importlib.util.MAGIC_NUMBER:
            continue
        if cached.data[8:16] != importlib.util.source_hash(image.data):
            variants_there.append(variant)
    return variants_there


def mode_of(data: bytes) -> str:
    """Return the invalidation mode of a .pyc by its flags: ``timestamp``, ``checked`` or ``unchecked``."""
    flags = int.from_bytes(data[4:8], "little")
    return "timestamp" if not flags & 1 else "checked" if flags & 2 else "unchecked"


def compile_sources(sources: Sequence[Source], python: Path | None, *, own: bool) -> list[list[bytes]]:
    """Compile every source with the target's interpreter; return the requested .pyc per source.

    Without an interpreter to run (an image root), the sources are checked with this process's own, and no .pyc may be
    requested. Raises ``not-python`` (exit 1) naming the file and line that do not compile.
    """
    requests = [compile_pyc.Request(str(module.path), module.data, module.outputs) for module in sources]
    if own or python is None:
        replies = [compile_pyc.compile_one(request) for request in requests]
    else:
        replies = _by_subprocess(requests, python)
    for reply, source in zip(replies, sources, strict=True):
        if reply.error:
            raise GaudiPatchError(
                Exit.REFUSED,
                "not-python",
                f"the patched file would not compile: {reply.error}; nothing was changed",
                "this is a fault of the patch: please report it",
                str(source.path),
                reply.line,
            )
    return [reply.outputs for reply in replies]


def _by_subprocess(requests: Sequence[compile_pyc.Request], python: Path) -> list[compile_pyc.Reply]:
    question = [request.to_json() for request in requests]
    try:
        answer = ask(
            python,
            "compile_pyc.py",
            timeout=TIMEOUT,
            environ=os.environ,
            flags=("-I", "-S", "-B"),
            question=question,
            limit=ANSWER_LIMIT,
        )
        if not isinstance(answer, list) or len(answer) != len(requests):
            raise AskError(Problem.INVALID, "its answer is not one reply per source")
        return [_reply(Fields(item), request) for item, request in zip(answer, requests, strict=True)]
    except AskError as error:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "interpreter-failed",
            f"could not compile with it: {error}; nothing was changed",
            file=str(python),
        ) from error


def _reply(fields: Fields, request: compile_pyc.Request) -> compile_pyc.Reply:
    """Validate a reply: an error, or one .pyc per output in the requested mode."""
    error, texts = fields.text("error"), fields.texts("outputs")
    try:
        outputs = [base64.b64decode(text, validate=True) for text in texts]
    except ValueError as fault:
        raise AskError(Problem.INVALID, "its answer.outputs is not base64") from fault
    modes = [mode_of(data) if len(data) > 16 else "" for data in outputs]
    if not error and modes != [output.mode for output in request.outputs]:
        raise AskError(Problem.INVALID, "its answer.outputs are not the requested .pyc")
    return compile_pyc.Reply(error, fields.number("line"), outputs)
