"""The only access of the checks to the host: its files, environment, tools, disks and network.

Another root directory and another environment represent another host. So tests simulate a host, and doctor examines an
unpacked image.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.reading import read_bytes
from gaudi_patch.target import process
from gaudi_patch.target.interpreter import which
from gaudi_patch.target.process import Finished

#: Timeout in seconds for a tool such as hl-smi, which answers within one or two, and hangs if a card does.
TOOL_SECONDS = 20.0
CONNECT_SECONDS = 2.0
#: Limit of a file in bytes; the largest file that is read is the list of Debian packages.
FILE_LIMIT = 64 * 1024 * 1024
#: Size of the sample that measures a disk, in bytes, and its time limit in seconds.
SAMPLE_BYTES = 64 * 1024 * 1024
SAMPLE_SECONDS = 3.0
_BLOCK = 4 * 1024 * 1024


class Bandwidth(NamedTuple):
    """Bytes per second: written through to the disk, and read back."""

    write: float
    read: float


@dataclass(frozen=True)
class Host:
    """A host. ``running`` is False for an image: its environment is unknown, and its programs are not run.

    ``sample`` is the number of bytes that measure a disk.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    running: bool = True
    sample: int = SAMPLE_BYTES

    def path(self, name: str) -> Path:
        """Return the location of the host's absolute path ``name``."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """Return the text of a file; None if it is missing or unreadable."""
        try:
            return read_bytes(self.path(name), FILE_LIMIT).decode("utf-8", "replace").strip()
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a directory; none if it is missing or unreadable."""
        try:
            return sorted(entry.name for entry in self.path(folder).iterdir())
        except OSError:
            return []

    def sizes(self, folder: str, pattern: str) -> list[int]:
        """Return the sizes in bytes of the files in a directory whose names match ``pattern`` (fnmatch).

        Anything that is missing, unreadable or removed meanwhile is left out.
        """
        found = []
        with contextlib.suppress(OSError), os.scandir(self.path(folder)) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if fnmatch.fnmatchcase(entry.name, pattern) and entry.is_file(follow_symlinks=False):
                        found.append(entry.stat(follow_symlinks=False).st_size)
        return found

    def tool(self, name: str, *arguments: str) -> Finished | str | None:
        """Run a program on PATH; return how it ended, or why it could not start, or None if it is missing."""
        tool = which(name, self.environ) if self.running and self.environ.get("PATH") else None
        return None if tool is None else self.run([tool, *arguments], TOOL_SECONDS)

    def run(self, command: list[str], timeout: float, environ: Mapping[str, str] | None = None) -> Finished | str:
        """Run ``command`` in an empty directory; return how it ended, or why it could not start.

        ``timeout`` is in seconds.
        """
        with tempfile.TemporaryDirectory(prefix="gaudi-patch-doctor-", ignore_cleanup_errors=True) as folder:
            try:
                return process.run(command, timeout=timeout, environ=environ or self.environ, cwd=Path(folder))
            except OSError as error:
                return error.strerror or str(error)

    def connect(self, name: str, port: int) -> str:
        """Return why nothing answers at a TCP address; "" if something does."""
        try:
            socket.create_connection((name, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return ""

    def unwritable(self, folder: str) -> str:
        """Return why no file can be created in ``folder``; "" if one can.

        The check creates a file, because permissions alone do not show what NFS allows.
        """
        try:
            tempfile.TemporaryFile(dir=self.path(folder)).close()
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def free_space(self, folder: str) -> int:
        """Return the bytes that this user may still write below ``folder``."""
        return shutil.disk_usage(self.path(folder)).free

    def existing(self, folder: str) -> str:
        """Return ``folder``, or the nearest directory above it that exists."""
        path = Path(folder)
        while not self.path(str(path)).is_dir() and path != path.parent:
            path = path.parent
        return str(path)

    def bandwidth(self, folder: str) -> Bandwidth:
        """Measure ``folder`` by writing and reading a temporary file; raise OSError if that fails."""
        block = os.urandom(_BLOCK)
        with tempfile.NamedTemporaryFile(dir=self.path(folder), prefix=".gaudi-patch-doctor-") as file:
            begun, size = time.perf_counter(), 0
            while size < self.sample and time.perf_counter() - begun < SAMPLE_SECONDS:
                size += file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter() - begun
            # Most file systems drop the kernel's copy on request; if one does not, memory is measured.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            begun = time.perf_counter()
            while file.read(_BLOCK):
                pass
            seconds = time.perf_counter() - begun
        return Bandwidth(size / written, size / seconds)
