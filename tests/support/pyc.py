"""Cached bytecode as image builders make it, and a check that each .pyc matches its own source.

The oracle is Python itself: each .pyc is loaded and compared with the source, compiled here. Nothing of gaudi_patch is
used.
"""

from __future__ import annotations

import importlib.util
import marshal
import py_compile
import re
import sys
from pathlib import Path

Mode = py_compile.PycInvalidationMode
MODES = {"timestamp": Mode.TIMESTAMP, "checked": Mode.CHECKED_HASH, "unchecked": Mode.UNCHECKED_HASH}
TAG = sys.implementation.cache_tag
#: An interpreter that is not installed: its magic number differs from ours, so this Python would load none of it.
OTHER_TAG, OTHER_MAGIC = "cpython-39", (3425).to_bytes(2, "little") + b"\r\n"

_CACHED = re.compile(r"(?P<stem>[^.]+)\.(?P<tag>[^.]+)(?:\.opt-(?P<level>[12]))?\.pyc")


def cached(source: Path, prefix: Path | None, level: str = "", tag: str = TAG) -> Path:
    """Return the path at which the interpreter with ``tag`` keeps the bytecode of ``source``."""
    name = f"{source.stem}.{tag}{'.opt-' + level if level else ''}.pyc"
    return (prefix / source.parent.relative_to("/") if prefix else source.parent / "__pycache__") / name


def compile_site(site: Path, mode: Mode, levels: tuple[str, ...], prefix: Path | None) -> None:
    """Compile everything below ``site`` for this interpreter."""
    for source in sorted(site.rglob("*.py")):
        for level in levels:
            where = str(cached(source, prefix, level))
            py_compile.compile(str(source), where, doraise=True, optimize=int(level or 0), invalidation_mode=mode)


def compile_for_another(site: Path) -> None:
    """Leave unchecked bytecode of another interpreter: a stand-in with this one's code under its magic number."""
    for source in sorted(site.rglob("*.py")):
        file = cached(source, None, tag=OTHER_TAG)
        py_compile.compile(str(source), str(file), doraise=True, invalidation_mode=Mode.UNCHECKED_HASH)
        file.write_bytes(OTHER_MAGIC + file.read_bytes()[4:])


def foreign(folder: Path, prefix: Path | None) -> list[str]:
    """Return the .pyc below ``folder`` whose code, file name or header does not match their own source."""
    return [f"{file}: {reason}" for file in sorted(folder.rglob("*.pyc")) if (reason := _fault(file, prefix))]


def _fault(file: Path, prefix: Path | None) -> str:
    parts = _CACHED.fullmatch(file.name)
    if parts is None or (prefix is None and file.parent.name != "__pycache__"):
        return "of no interpreter"
    source = (Path("/") / file.parent.relative_to(prefix) if prefix else file.parent.parent) / f"{parts['stem']}.py"
    if not source.exists():
        return "of no source"
    data, text = file.read_bytes(), source.read_bytes()
    level = int(parts["level"] or 0)
    code = marshal.loads(data[16:])
    if code.co_filename != str(source):
        return f"the code of {code.co_filename}"
    if code != compile(text, str(source), "exec", dont_inherit=True, optimize=level):
        return "other code than its source's"
    stamp = (int(source.stat().st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    validated = importlib.util.source_hash(text) if data[4] else stamp
    magic = importlib.util.MAGIC_NUMBER if parts["tag"] == TAG else OTHER_MAGIC
    return "the header of another source" if (data[:4], data[8:16]) != (magic, validated) else ""
