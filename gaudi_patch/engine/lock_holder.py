"""Name the process that holds a lock, as far as Linux shows it to this user."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
#: Characters of a command line that are shown.
_WIDTH = 200


class Holder(NamedTuple):
    """A process that holds a lock; ``pid`` is None when it is not visible from here."""

    pid: int | None = None
    uid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that cannot be seen from here (of another container, host or user)"
        user = "" if self.uid in (None, os.geteuid()) else f" of uid {self.uid}"
        return f"process {self.pid}{user}{f' ({self.command})' if self.command else ''}"


def holder_of(descriptor: int) -> Holder:
    """Return who holds a flock on the file that ``descriptor`` has open; never fails."""
    info = os.fstat(descriptor)
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    listed = list(_listed())
    for pid, _ in listed:
        if _holds(pid, info):
            return _described(pid)
    # Descriptors of another user's process are hidden; the list itself is not. Its device differs on some file
    # systems (overlay, btrfs), and then nobody is named.
    for pid, where in listed:
        if where == place:
            return _described(pid)
    return Holder()


def _listed() -> Iterator[tuple[int, str]]:
    """Yield the process and the place (device and inode) of every flock, as /proc/locks has them."""
    with contextlib.suppress(OSError):
        for line in (PROC / "locks").read_text("ascii", "replace").splitlines():
            fields = line.split()
            if len(fields) >= 6 and fields[1] == "FLOCK" and fields[4].isdigit() and int(fields[4]) != os.getpid():
                yield int(fields[4]), fields[5]


def _holds(pid: int, info: os.stat_result) -> bool:
    """Return whether one of the descriptors of ``pid`` has that very file open and a flock on it."""
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
