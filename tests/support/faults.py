"""Deliberate faults: a process killed, or an error raised, at step *n* of a transaction."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gaudi_patch.disk import Disk

#: GAUDI_PATCH_TEST_FULL=1 tests every combination; otherwise a spread of them is tested.
FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"

#: The exit code of a process ended by SIGKILL, as a shell reports it.
KILLED = 137


class Recorder(Disk):
    """Record each step and perform it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []

    def step(self, name: str, path: Path) -> None:
        self.calls.append((name, path))


class KillAt(Disk):
    """End the process before step ``at``: nothing runs afterwards, no handler, no clean-up."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def step(self, name: str, path: Path) -> None:
        if self.count == self.at:
            os._exit(KILLED)
        self.count += 1


class FailAt(Disk):
    """Raise OSError before step ``at``: once, or from then on (a full or dead disk)."""

    def __init__(self, at: int, number: int, *, from_then_on: bool = False) -> None:
        self.at = at
        self.number = number
        self.from_then_on = from_then_on
        self.count = 0
        self.failed = False

    def step(self, name: str, path: Path) -> None:
        if self.count == self.at or (self.from_then_on and self.count > self.at):
            self.failed = True
            self.count += 1
            raise OSError(self.number, os.strerror(self.number), str(path))
        self.count += 1


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a separate process; return its exit code, 0 if it ended, 70 if it raised."""
    with warnings.catch_warnings():
        # Python 3.12 warns about fork with threads (pytest-xdist has some); the child only writes files and exits.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Yield a directory in memory if available: thousands of fsyncs on a disk would only measure the disk."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent, prefix="gaudi-patch-tests-") as folder:
        yield Path(folder).resolve()


def copy_tree(source: Path, target: Path) -> Path:
    """Return a copy with links, modes and times; an existing ``target`` is removed."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)
    return target
