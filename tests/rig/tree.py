"""Read files from disk and check their consistency, with hashlib and the standard library instead of gaudi_patch."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import marshal
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import NamedTuple


class Node(NamedTuple):
    """One path: "file", "link", "directory" or "other"; its bytes or the link's target; its mode; a file's mtime."""

    kind: str
    data: bytes
    mode: int
    mtime_ns: int

    @property
    def content(self) -> tuple[str, bytes, int]:
        return self.kind, self.data, self.mode


#: Paths relative to the top, in order; a directory's path ends with a slash.
Tree = dict[str, Node]


def snapshot(top: Path, wanted: Callable[[str], bool] = lambda name: True) -> Tree:
    """Return all paths below ``top`` whose relative name is ``wanted``; of directories only the empty ones."""
    nodes: Tree = {}

    def walk(folder: Path, prefix: str) -> bool:
        empty = True
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            empty = False
            name, info = f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                if walk(Path(entry.path), f"{name}/") and wanted(f"{name}/"):
                    nodes[f"{name}/"] = Node("directory", b"", stat.S_IMODE(info.st_mode), 0)
            elif wanted(name):
                nodes[name] = _node(Path(entry.path), info)
        return empty

    walk(top, "")
    return nodes


def _node(path: Path, info: os.stat_result) -> Node:
    if stat.S_ISLNK(info.st_mode):
        return Node("link", os.fsencode(os.readlink(path)), 0, 0)
    if stat.S_ISREG(info.st_mode):
        return Node("file", path.read_bytes(), stat.S_IMODE(info.st_mode), info.st_mtime_ns)
    return Node("other", b"", stat.S_IMODE(info.st_mode), 0)


def restore(source: Path, target: Path) -> None:
    """Make ``target`` a copy of ``source``: links, modes, times."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)


def digest(tree: Tree) -> str:
    return hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest()


def differences(before: Mapping[str, Node], after: Mapping[str, Node]) -> list[str]:
    """Return the paths that differ, each with the difference."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None or new is None:
            lines.append(f"{name}: {'new' if old is None else 'gone'}")
        else:
            fields = zip(Node._fields, old, new, strict=True)
            lines.append(f"{name}: other {', '.join(field for field, one, two in fields if one != two)}")
    return lines


def record_faults(site: Path, dist_info: str, package: str = "lmcache") -> list[str]:
    """Return the faults of RECORD: a row that does not match its file, a file without a row."""
    data = (site / dist_info / "RECORD").read_bytes()
    faults, listed = [], set()
    for row in csv.reader(io.StringIO(data.decode())):
        name, hashed, size = row
        if name in listed:
            faults.append(f"RECORD lists {name} twice")
        listed.add(name)
        file = site / name
        if not file.exists():
            faults.append(f"RECORD lists {name}, which is not there")
        elif hashed:
            content = file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            if (hashed, size) != (f"sha256={digest}", str(len(content))):
                faults.append(f"RECORD has another hash or size for {name}")
        elif not (name.endswith((".pyc", "/RECORD"))):
            faults.append(f"RECORD lists {name} without a hash")
    for top in (package, dist_info):
        for file in sorted((site / top).rglob("*")):
            name = file.relative_to(site).as_posix()
            if not file.is_dir() and not name.endswith(".pyc") and name not in listed:
                faults.append(f"RECORD does not list {name}")
    return faults


_CACHED = re.compile(r"(?P<stem>.+)\.(?P<tag>cpython-\d+)(?:\.opt-(?P<level>[12]))?\.pyc")


def bytecode_faults(site: Path, package: str = "lmcache") -> list[str]:
    """Return each .pyc of this interpreter that Python would run although it does not match its source."""
    faults = []
    for file in sorted((site / package).rglob("*.pyc")):
        match = _CACHED.fullmatch(file.name)
        if file.parent.name != "__pycache__" or match is None:
            faults.append(f"{file}: not where Python writes bytecode")
            continue
        source = file.parent.parent / f"{match['stem']}.py"
        fault = _fault_of(file.read_bytes(), source, int(match["level"] or 0))
        if fault:
            faults.append(f"{file.relative_to(site)}: {fault}")
    return faults


def _fault_of(data: bytes, source: Path, level: int) -> str:
    if not source.is_file():
        return "its source is not there"
    if data[:4] != importlib.util.MAGIC_NUMBER:
        return "not of this interpreter"
    text = source.read_bytes()
    flags = int.from_bytes(data[4:8], "little")
    if flags & 1:
        if data[8:16] != importlib.util.source_hash(text):
            return "its hash is another source's" if not flags & 2 else ""  # Python recompiles a checked .pyc
    else:
        info = source.stat()
        if (int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")) != (
            int(info.st_mtime) & 0xFFFFFFFF,
            info.st_size & 0xFFFFFFFF,
        ):
            return ""  # Python recompiles it
    code = marshal.loads(data[16:])
    assert isinstance(code, CodeType)
    if code.co_filename != str(source):
        return f"it says that it is of {code.co_filename}"
    if compile(text, str(source), "exec", dont_inherit=True, optimize=level) != code:
        return "its code is another source's"
    return ""
