"""The parts of hostile cases: their list, the victim next to the target, and how a target is spoiled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.tiny import Tiny

#: The contents of files that the target's owner may not read.
SECRET = b"the-secret-of-the-victim"
#: The owner of the target writes this instead.
EVIL = b"evil\n"

Spoil = Callable[[Tiny, Path], None]


class Case(NamedTuple):
    """``applied``: the series is applied first; ``exits`` are permitted for apply and rollback, None for any."""

    name: str
    spoil: Spoil
    applied: bool
    exits: frozenset[int] | None


CASES: list[Case] = []


def case(*exits: int, applied: bool = False) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        CASES.append(Case(spoil.__name__, spoil, applied, frozenset(exits) or None))
        return spoil

    return add


def make_victim(folder: Path) -> Path:
    """Return files next to the target that belong to another user."""
    victim = folder / "victim"
    (victim / "emptydir").mkdir(parents=True)
    (victim / "cache").mkdir()
    for name, data in {
        "passwd": b"root:x:0:0\n",
        "secret": SECRET,
        "deleteme": b"keep me\n",
        "journal.json": b"{}",
        "state.json": b"{}",
        "undo": b"u",
        "cache/engine.cpython-311.pyc": SECRET,
        "cache/kernels.py": b"keep me\n",
        "engine.py": b"def device():\n    return 'cuda'\n",
    }.items():
        (victim / name).write_bytes(data)
    (victim / "secret").chmod(0o600)
    (victim / "cache/engine.cpython-311.pyc").chmod(0o600)
    return victim


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return everything in ``folder``: kind, mode, owner, times, links, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        about = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_ino)
        found[str(path.relative_to(folder))] = (*about, data)
    return found


def replaced_by_link(path: Path, target: Path | str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def replaced_by_fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def saved(data: bytes, mode: str = "0644", link: str | None = None) -> dict[str, Any]:
    return {"sha256": digest(data), "mode": mode, "mtime_ns": None, "owner": [0, 0], "link": link}


def forge_journal(target: Tiny, text: str | bytes | None = None, undo: bytes = EVIL, **changes: Any) -> None:
    """Write a journal of a killed run that puts ``EVIL`` into engine.py, with ``changes``."""
    target.home.mkdir(exist_ok=True)
    (target.home / "undo").write_bytes(undo)
    engine = (target.site / "lmcache/engine.py").read_bytes()
    entry = {
        "path": "lmcache/engine.py",
        "before": saved(EVIL),
        "after": saved(engine),
        "temp": "lmcache/.gaudi-patch-1-0.tmp",
        "undo": [0, len(EVIL)],
        "volatile": False,
    }
    entry |= changes.pop("entry", {})
    document = {
        "schema_version": 1, "verb": "apply", "phase": "replacing", "pid": 1, "created": [], "removed": [],
        "entries": [entry],
    } | changes  # fmt: skip
    data = json.dumps(document) if text is None else text
    (target.home / "journal.json").write_bytes(data if isinstance(data, bytes) else data.encode())


def forge_state(target: Tiny, **changes: Any) -> dict[str, Any]:
    """Return the state of the applied series, with ``changes``; a backup holds ``EVIL``."""
    file = target.state_dir / "state.json"
    document: dict[str, Any] = json.loads(file.read_bytes()) | changes
    (target.state_dir / "backup" / digest(EVIL)).write_bytes(EVIL)
    file.write_text(json.dumps(document))
    return document


def up(target: Tiny, path: Path) -> str:
    """Return ``path`` as a relative path that climbs out of the target."""
    return os.path.relpath(path, target.site)
