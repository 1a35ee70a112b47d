"""Name the process that holds a lock, if Linux shows it to this user."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
#: Number of characters shown of a command line.
_WIDTH = 200


class Holder(NamedTuple):
    """A process that holds a lock; ``pid`` is None when it is not visible from here."""

    pid: int | None = None
    uid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that is not visible from here (in another container, on another host, or of another user)"
        user = "" if self.uid in (None, os.geteuid()) else f" of uid {self.uid}"
        return f"process {self.pid}{user}{f' ({self.command})' if self.command else ''}"


def holder_of(descriptor: int) -> Holder:
    """Return the holder of a flock on the file open at ``descriptor``; never fails."""
    info = os.fstat(descriptor)
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    listed = list(_listed())
    for pid, _ in listed:
        if _holds(pid, info):
            return _described(pid)
    # The descriptors of another user's process are hidden, but /proc/locks is not. Its device differs on some file
    # systems (overlay, btrfs); then no process is named.
    for pid, where in listed:
        if where == place:
            return _described(pid)
    return Holder()


def _listed() -> Iterator[tuple[int, str]]:
    """Yield the process and the device and inode of every flock in /proc/locks."""
    with contextlib.suppress(OSError):
        for line in (PROC / "locks").read_text("ascii", "replace").splitlines():
            fields = line.split()
            if len(fields) >= 6 and fields[1] == "FLOCK" and fields[4].isdigit() and int(fields[4]) != os.getpid():
                yield int(fields[4]), fields[5]


def _holds(pid: int, info: os.stat_result) -> bool:
    """Return whether ``pid`` has this file open with a flock on it."""
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(entry.stat(), info):
                    details = (PROC / str(pid) / "fdinfo" / entry.name).read_text("ascii", "replace")
                    if "FLOCK" in details:
                        return True
    return False


def _described(pid: int) -> Holder:
    uid, command = None, ""
    with contextlib.suppress(OSError):
        uid = (PROC / str(pid)).stat().st_uid
        words = (PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        command = shlex.join(os.fsdecode(word) for word in words)
    return Holder(pid, uid, command if len(command) <= _WIDTH else f"{command[:_WIDTH]}...")
