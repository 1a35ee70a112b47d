"""Allow one writer per installation: an advisory lock on the directory itself leaves no lock file behind.

There is no fallback for a file system without locks: the user decides instead (``--no-lock``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gaudi_patch.engine.lock_holder import Holder, holder_of
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.opening import look_at

#: Errors of flock on file systems without locks; NFS needs a descriptor open for writing, which a directory cannot
#: have.
UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_PAUSE = 0.05


@contextlib.contextmanager
def directory_lock(path: Path, timeout: float | None) -> Iterator[list[str]]:
    """Hold an exclusive lock on the directory ``path``; yields warnings.

    ``timeout`` is in seconds; None takes no lock at all (``--no-lock``).
    Raises ``locked`` (exit 4) if another process holds it for longer, ``cannot-lock`` (exit 4) if the file system has
    no locks, and ``vanished`` (exit 4) if the directory was replaced meanwhile (pip upgraded the package).
    """
    descriptor = _open(path)
    try:
        warnings = []
        if timeout is None:
            warnings.append(f"no lock was taken on {path} (--no-lock): nothing prevents another run at the same time")
        else:
            _wait(descriptor, path, timeout)
        there = look_at(path, follow=True)
        if there is None or not os.path.samestat(os.fstat(descriptor), there):
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


@contextlib.contextmanager
def no_writer(path: Path) -> Iterator[Holder | None]:
    """Keep writers out of the directory ``path`` while the block runs, and write nothing.

    Yields None if there is no writer: what the block reads is then complete, or was left by a killed run. Otherwise
    yields the writer, and the block runs beside it. On a file system without locks no writer is known.
    """
    descriptor = _open(path)
    try:
        try:
            free = _try(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            free = True
        yield None if free else holder_of(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path, waited: str = "", holder: Holder | None = None) -> GaudiPatchError:
    """Return the error for an installation in use by another process."""
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "locked",
        f"this installation is locked by {holder or 'another process'}{waited}; nothing was changed",
        "wait for it to finish and run the same command again; `apply` and `rollback` wait longer with --lock-timeout",
        str(path),
    )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _wait(descriptor: int, path: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    try:
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise locked(path, f" (waited {timeout:g} s)", holder_of(descriptor))
            time.sleep(_PAUSE)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "cannot-lock",
            f"its file system cannot lock ({error.strerror}), so concurrent runs could not be prevented; nothing was "
            f"changed",
            "if nothing else changes this installation in the meantime, run the same command with --no-lock",
            str(path),
        ) from error


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
