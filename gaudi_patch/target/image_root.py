"""An unpacked container image: follow links as inside the image, find Python directories, run nothing."""

# ruff: noqa: PTH118, PTH206, PTH208
# Why: links are followed by hand, part by part; pathlib would follow them on the host.

from __future__ import annotations

import errno
import os
from fnmatch import fnmatchcase
from pathlib import Path

from gaudi_patch.opening import is_directory

#: The number of links that Linux follows in one path.
MAX_LINKS = 40

#: Where environments are in images, relative to the root. ``*`` also matches hidden names (.venv, .local).
PREFIXES = (
    "*",
    "*/*",
    "*/*/*",
    "*/envs/*",
    "*/*/envs/*",
    "home/*/*/envs/*",
    "*/.pyenv/versions/*",
    "*/*/.pyenv/versions/*",
    "*/.local/share/uv/tools/*",
    "*/.local/share/uv/python/*",
    "*/.local/share/pipx/venvs/*",
)
LIBRARIES = ("lib/python3*", "lib64/python3*", "local/lib/python3*")
PACKAGES = ("site-packages", "dist-packages")

#: What readlink says of what is no link, is not there, or lies where no file can be opened either.
NO_LINK = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG})

#: Not part of an image's file system, or endless.
SKIPPED = frozenset({"proc", "sys", "dev"})


class ImageRoot:
    """The file system of an image unpacked at ``root``."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)

    def on_host(self, path: str) -> str:
        """Return the host's path for the image's absolute path ``path``, without following links."""
        return os.path.join(self.root, path.lstrip("/"))

    def resolve(self, path: str) -> str:
        """Return the host's path ``path``, below the root, with links followed as inside the image.

        An absolute link starts at the image's root, and ``..`` never leads out of it. A missing part is kept as
        written; a cycle of links raises OSError (ELOOP).
        """
        todo = os.path.relpath(path, self.root).split(os.sep)[::-1]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            try:
                link = os.readlink(os.path.join(self.root, *done, part))
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise  # a link that is taken for none would be followed on the host
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if link.startswith("/"):
                done.clear()
            todo.extend(link.split("/")[::-1])
        return os.path.join(self.root, *done)

    def site_folders(self) -> list[str]:
        """Return the image's site-packages and dist-packages directories, with links followed, without duplicates.

        The search is as deep as ``PREFIXES``: it grows with the number of directories near the root, not with the
        image. Raises OSError where what may be one cannot be seen; another user's directories are passed over.
        """
        found: dict[str, None] = {}
        for prefix in PREFIXES:
            for folder in self._matching([self.root], prefix):
                for library in LIBRARIES:
                    for lib in self._matching([folder], library):
                        for packages in PACKAGES:
                            found.update(dict.fromkeys(self._matching([lib], packages)))
        return list(found)

    def _matching(self, folders: list[str], pattern: str) -> list[str]:
        """Return the directories below ``folders`` that match ``pattern``."""
        for part in pattern.split("/"):
            found: dict[str, None] = {}
            for folder in folders:
                for name in self._names(folder, part):
                    try:
                        real = self.resolve(os.path.join(folder, name))
                        if is_directory(Path(real)):
                            found[real] = None
                    except PermissionError:  # as in _names
                        continue
                    except OSError as error:
                        if error.errno != errno.ELOOP:  # a cycle of links leads to no directory
                            raise
            folders = list(found)
        return folders

    def _names(self, folder: str, part: str) -> list[str]:
        if "*" not in part:
            return [part]
        try:
            names = os.listdir(folder)
        except PermissionError:  # another user's home; what is unreadable cannot be patched either
            return []
        return sorted(n for n in names if fnmatchcase(n, part) and not (folder == self.root and n in SKIPPED))
