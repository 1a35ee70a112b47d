"""Verify from disk that the cached bytecode that Python would run matches its sources.

A .pyc compiled by gaudi-patch is known by its hash. The target's interpreter judges any other that Python would load.
If no interpreter can run (an image), the header decides, as far as this Python can read it.
"""

from __future__ import annotations

import base64
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine import bytecode
from gaudi_patch.engine.applied import Applied
from gaudi_patch.engine.guard import Ground
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.target.ask import AskError, Problem, ask
from gaudi_patch.target.installation import Installation

#: Timeout in seconds for all bytecode of a series: it is compiled once.
TIMEOUT = 120.0
#: Size limit of a .pyc in bytes; LMCache's largest is under 1 MiB.
LIMIT = 32 * 1024 * 1024
ANSWER_LIMIT = 16 * 1024 * 1024


class Wrong(NamedTuple):
    """A cached .pyc that Python would run instead of its source, and what is wrong with it."""

    path: Path
    reason: str
    source: str  # relative to the installation's root

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class _Cached(NamedTuple):
    """A .pyc that Python may load, to be judged by the target's interpreter."""

    name: str
    source: Path
    text: bytes
    path: Path
    optimization: str
    data: bytes


def recorded(installation: Installation, applied: Applied | None) -> dict[Path, str]:
    """Return the SHA-256 of the bytecode compiled for the applied series, by path."""
    return {installation.root / name: digest for name, digest in applied.compiled.items()} if applied else {}


def wrong(
    installation: Installation,
    names: Iterable[str],
    known: Mapping[Path, str],
    restored: Mapping[Path, str] = MappingProxyType({}),
) -> list[Wrong]:
    """Return bytecode of the sources ``names`` that Python would run although it does not match them.

    ``names`` are relative to the installation's root. ``known`` are SHA-256 of bytecode that gaudi-patch compiled
    from exactly these sources, ``restored`` of bytecode that a rollback restored, right or wrong. Raises
    ``interpreter-failed`` (exit 4).
    """
    bounds = Ground.of(installation).bounds
    wrong: list[Wrong] = []
    unknown: list[_Cached] = []
    for name in names:
        source = installation.root / name
        if source.suffix != ".py":
            continue
        if installation.python is None:
            stale = bytecode.stale(source, installation.pycache_prefix, bounds)
            wrong += [
                Wrong(variant.path, "was compiled from another source", name)
                for variant in stale
                if variant.path not in restored
            ]
            continue
        text = read_image(source, bounds)
        for variant in bytecode.variants(source, installation.pycache_prefix, bounds):
            if text is None:
                if not variant.tag and variant.path not in restored:
                    wrong.append(Wrong(variant.path, "belongs to a missing module", name))
                continue
            cached = read_image(variant.path, bounds) if variant.tag == installation.cache_tag else None
            if cached is None or not _is_taken(cached.data, text) or cached.sha256 == restored.get(variant.path):
                continue
            if cached.sha256 == known.get(variant.path) and _fits(cached.data, text.data, source):
                continue
            if len(cached.data) > LIMIT:
                wrong.append(Wrong(variant.path, f"is too large ({len(cached.data)} bytes)", name))
                continue
            unknown.append(_Cached(name, source, text.data, variant.path, variant.optimization, cached.data))
    if unknown:
        assert installation.python is not None
        wrong += _judged(unknown, installation.python)
    return sorted(wrong)


def _is_taken(data: bytes, source: FileImage) -> bool:
    """Return whether Python may load a .pyc with this header for ``source``; it ignores all others."""
    flags = int.from_bytes(data[4:8], "little")
    if len(data) < 16 or flags > 3:
        return False
    if flags:
        return True
    second = (source.mtime_ns or 0) // 1_000_000_000 & 0xFFFFFFFF
    return data[8:16] == second.to_bytes(4, "little") + (len(source.data) & 0xFFFFFFFF).to_bytes(4, "little")


def _fits(data: bytes, text: bytes, source: Path) -> bool:
    """Return whether compiled bytecode fits, as far as can be seen without loading it."""
    named = os.fsencode(source) in data
    if data[:4] != importlib.util.MAGIC_NUMBER or not data[4] & 1:
        return named
    return named and data[8:16] == importlib.util.source_hash(text)


def verify(
    installation: Installation,
    names: Iterable[str],
    known: Mapping[Path, str],
    restored: Mapping[Path, str] = MappingProxyType({}),
) -> None:
    """Raise ``verify-failed`` (exit 4) if :func:`wrong` finds anything; call this before a commit."""
    for fault in wrong(installation, names, known, restored):
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "verify-failed",
            f"{fault.reason}, and Python would run it; all changes were undone",
            "stop the program that writes bytecode of this package at the same time, and run the same command again",
            str(fault.path),
        )


def _judged(cached: list[_Cached], python: Path) -> list[Wrong]:
    """Ask the interpreter about all files at once; if it crashes, about each alone."""
    question = [_question(module) for module in cached]
    try:
        answer = ask(
            python,
            "compare_pyc.py",
            timeout=TIMEOUT,
            environ=os.environ,
            flags=("-I", "-S", "-B"),
            question=question,
            limit=ANSWER_LIMIT,
        )
        reasons = [item[:500] for item in answer if isinstance(item, str)] if isinstance(answer, list) else []
        if len(reasons) != len(cached):
            raise AskError(Problem.INVALID, "its answer is not one reply per file")
    except AskError as error:
        if error.problem is Problem.TIMEOUT or (error.problem is Problem.NO_ANSWER and len(cached) == 1):
            return [
                Wrong(module.path, f"cannot be verified: the interpreter gave {error}", module.name)
                for module in cached
            ]
        if error.problem is Problem.NO_ANSWER:
            return [wrong for module in cached for wrong in _judged([module], python)]
        raise GaudiPatchError(
            Exit.ENVIRONMENT, "interpreter-failed", f"could not verify bytecode with it: {error}", file=str(python)
        ) from error
    return [Wrong(module.path, reason, module.name) for module, reason in zip(cached, reasons, strict=True) if reason]


def _question(cached: _Cached) -> dict[str, Any]:
    return {
        "path": str(cached.source),
        "name": cached.name,
        "data": base64.b64encode(cached.text).decode(),
        "optimization": cached.optimization,
        "cached": base64.b64encode(cached.data).decode(),
    }
