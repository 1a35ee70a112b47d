# SPDX-License-Identifier: Apache-2.0
"""Memory that the host, the control group and the process's limits leave for pinning."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path

__all__ = ["memlock", "no_room", "rooms"]

_MIB = 1 << 20
#: The part of all memory of the host, or of the control group, that stays unpinned.
_SPARE = 0.05
#: Version 1 reports this value instead of "no limit".
_UNLIMITED = 1 << 62
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def memlock() -> str:
    """Return RLIMIT_MEMLOCK for a message; empty if unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "" if soft == resource.RLIM_INFINITY else f" (RLIMIT_MEMLOCK is {soft / _MIB:.0f} MiB)"


def no_room(nbytes: int) -> str | None:
    """Return why so much memory should not be pinned now, or None; it cannot be reclaimed, and a process is killed."""
    for what, total, room in rooms():
        if room - nbytes < _SPARE * total:
            return f"{what} has {room / _MIB:.0f} MiB left of {total / _MIB:.0f}"
    return None


def rooms() -> Iterable[tuple[str, int, int]]:
    """Yield the host and each control group that has a limit, with its bytes of memory and what is left."""
    host = _fields(_PROC / "meminfo", ":", 1024)
    if "MemTotal" in host and "MemAvailable" in host:
        yield "the host", host["MemTotal"], host["MemAvailable"]
    for group, names in _groups():
        most, current = _number(group / names[0]), _number(group / names[1])
        if most is None or current is None or most >= host.get("MemTotal", _UNLIMITED):
            continue
        pages = _fields(group / "memory.stat", " ", 1)  # page cache of files, which the kernel frees when needed
        files = sum(pages.get(names[2] + kind, 0) for kind in ("inactive_file", "active_file"))
        yield f"the control group ({names[0]})", most, most - current + files


def _groups() -> Iterable[tuple[Path, tuple[str, str, str]]]:
    """Yield this process's control group and those above it, of version 2 and 1, with the names of their figures.

    Without a namespace of its own, as in a systemd unit, a process is far below the top, and each limit on the way
    holds.
    """
    try:
        rows = [row.split(":", 2) for row in (_PROC / "self/cgroup").read_text().splitlines()]
    except OSError:
        rows = []
    own = {row[1]: row[2] for row in rows if len(row) == 3}
    for controllers, path in {"": "/", "memory": "/", **own}.items():
        if controllers == "":
            top, names = _CGROUP, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top, names = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        parts = [part for part in path.split("/") if part]
        below = parts if ".." not in parts else []  # groups outside this namespace are not visible
        for depth in range(len(below), -1, -1):
            yield top.joinpath(*below[:depth]), names


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _fields(file: Path, separator: str, unit: int) -> dict[str, int]:
    try:
        rows = [line.split(separator, 1) for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].strip(): int(row[1].split()[0]) * unit for row in rows if len(row) == 2 and row[1].split()}
