# SPDX-License-Identifier: Apache-2.0
"""How much memory the host, the control group and the process's limits leave for pinning."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path

__all__ = ["memlock", "no_room", "rooms"]

_MIB = 1 << 20
#: Of what the host, or the control group, has in all, that much stays unpinned.
_SPARE = 0.05


def memlock() -> str:
    """Return what RLIMIT_MEMLOCK says, for a message; empty where it is unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "" if soft == resource.RLIM_INFINITY else f" (RLIMIT_MEMLOCK is {soft / _MIB:.0f} MiB)"


def no_room(nbytes: int) -> str | None:
    """Return why so much memory should not be pinned now, or None; it cannot be reclaimed, and a process is killed."""
    for what, total, room in rooms():
        if room - nbytes < _SPARE * total:
            return f"{what} has {room / _MIB:.0f} MiB left of {total / _MIB:.0f}"
    return None


def rooms() -> Iterable[tuple[str, int, int]]:
    """Yield the host and the control group, each with its bytes of memory and what is left; if they can be read."""
    host = _fields(Path("/proc/meminfo"), ":", 1024)
    if "MemTotal" in host and "MemAvailable" in host:
        yield "the host", host["MemTotal"], host["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text().strip()
        current = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return
    if most.isdecimal():
        pages = _fields(group / "memory.stat", " ", 1)  # of files, which the kernel gives up when it must
        files = pages.get("inactive_file", 0) + pages.get("active_file", 0)
        yield "the control group (memory.max)", int(most), int(most) - current + files


def _fields(file: Path, separator: str, unit: int) -> dict[str, int]:
    try:
        rows = [line.split(separator, 1) for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].strip(): int(row[1].split()[0]) * unit for row in rows if len(row) == 2 and row[1].split()}
