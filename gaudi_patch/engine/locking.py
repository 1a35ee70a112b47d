"""One writer an installation: an advisory lock on the folder itself, so that no lock file is ever left.

Where the file system has no flock (NFS without a lock manager, some FUSE), a file made with O_EXCL takes its
place; it names its host and process, so that what a killed run left can be told from a running one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError

LOCK_FILE = "gaudi-patch.lock"
#: What flock says on a file system that cannot lock; NFS wants a descriptor open for writing, which a folder has not.
UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_PAUSE = 0.05


@contextlib.contextmanager
def directory_lock(path: Path, timeout: float) -> Iterator[list[str]]:
    """Hold an exclusive lock on the folder ``path``; yields warnings.

    Raises ``locked`` (exit 4) when another process holds it for longer than ``timeout`` seconds, and
    ``vanished`` when the folder was replaced while we waited (pip upgraded the package).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock_file = None
    try:
        warnings = []
        try:
            _wait(lambda: _flock(descriptor), path, timeout)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            _wait(lambda: _make(path / LOCK_FILE), path, timeout)
            lock_file = path / LOCK_FILE  # ours from here on, and not before
            warnings.append(f"{path} is on a file system without flock ({error.strerror}): locked by a file instead")
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "vanished",
                "the installation was replaced or removed while waiting for its lock; nothing was changed",
                "run the same command again",
                str(path),
            )
        yield warnings
    finally:
        os.close(descriptor)
        if lock_file is not None:
            lock_file.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of the folder ``path`` right now. Writes nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return not _flock(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return (path / LOCK_FILE).exists() and not _is_stale(path / LOCK_FILE)
    finally:
        os.close(descriptor)


def _wait(attempt: Callable[[], bool], path: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not attempt():
        if time.monotonic() >= deadline:
            raise locked(path, f" (waited {timeout:g} s)")
        time.sleep(_PAUSE)


def locked(path: Path, waited: str = "") -> GaudiPatchError:
    """Another process is at work."""
    what = f"another gaudi-patch works on this installation{waited}; nothing was changed"
    return GaudiPatchError(Exit.ENVIRONMENT, "locked", what, "wait for it to end, or raise --lock-timeout", str(path))


def _flock(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(file: Path) -> bool:
    """Make the lock file; False when another process holds it. One that a dead process of this host left goes."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        if _is_stale(file):
            file.unlink(missing_ok=True)
        return False
    with open(descriptor, "w", encoding="utf-8") as stream:
        json.dump({"host": os.uname().nodename, "pid": os.getpid()}, stream)
    return True


def _is_stale(file: Path) -> bool:
    try:
        holder = json.loads(file.read_bytes())
        host, pid = holder["host"], int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # just being written, or not ours: a human decides
    if host != os.uname().nodename:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
