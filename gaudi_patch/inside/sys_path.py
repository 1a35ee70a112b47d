"""Where a normal run of this interpreter would import from, without importing anything of the environment.

Run by answer.py under the target's interpreter with ``-I``, which keeps PYTHONPATH, the user site and the current
directory from hijacking the question; ``describe`` then adds what a run without ``-I`` would see. gaudi-patch also
calls it in its own process, when that is the target. It imports nothing of gaudi_patch and runs on Python 3.8 or newer.
"""

# ruff: noqa: PTH100, PTH109, PTH112, PTH116, PTH118, PTH120, PTH208
# Why: entries of sys.path are strings, compared as strings, and pathlib costs this script a third of its time.

from __future__ import annotations

import os
import site
import stat
import sys
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # typing's own costs this script its import
if TYPE_CHECKING:
    from typing import TypedDict

    class Facts(TypedDict):
        """What an interpreter says of itself; "" is for what it does not have."""

        executable: str
        prefix: str
        version: list[int]
        cache_tag: str
        pycache_prefix: str
        path: list[str]
        finder_folder: str
        frozen: bool


#: Bytes of a .pth file; real ones have a few lines.
PTH_LIMIT = 1024 * 1024


def pth_lines(folder: str, resolve: Callable[[str], str] = os.path.realpath) -> list[str]:
    """Return the path lines of the ``.pth`` files in ``folder``; relative ones start there. ``import`` lines are
    not run.
    """
    directories: list[str] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return directories
    for name in names:
        if not name.endswith(".pth") or name.startswith("."):
            continue
        try:
            lines = _lines(resolve(os.path.join(folder, name)))
        except OSError:  # site itself goes on without a file that it cannot read
            continue
        directories += [
            line.rstrip() for line in lines if line.strip() and not line.startswith(("#", "import ", "import\t"))
        ]
    return directories


def _lines(path: str) -> list[str]:
    """Return the lines of a regular file, its first MiB; a FIFO or a device is not waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return []
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return []
        return file.read(PTH_LIMIT).decode("utf-8", "surrogateescape").splitlines()


def pythonpath(environ: Mapping[str, str]) -> list[str]:
    """Return the entries of PYTHONPATH; an empty or a relative one means, as for Python, the current directory."""
    value = environ.get("PYTHONPATH", "")
    return [os.path.abspath(entry) for entry in value.split(os.pathsep)] if value else []


def _user_site(environ: Mapping[str, str]) -> str:
    """Return the user's site-packages if a normal run would have it on sys.path, else ''."""
    if environ.get("PYTHONNOUSERSITE"):
        return ""
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return ""
    if sys.prefix != sys.base_prefix and sys.base_prefix not in site.PREFIXES:
        return ""  # a virtual environment without the system's packages has no user site either
    folder = site.getusersitepackages()
    return folder if os.path.isdir(folder) else ""


def _own_path() -> list[str]:
    """sys.path without the directory of the script that runs, which is not the target's script."""
    path = list(sys.path)
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False) or not path:
        return path
    try:
        starts = {"", os.getcwd(), os.path.dirname(os.path.realpath(sys.argv[0]))}
    except OSError:  # the current directory was deleted
        starts = {""}
    return path[1:] if path[0] in starts else path


def normal_path(environ: Mapping[str, str]) -> list[str]:
    """sys.path of a plain ``python`` in ``environ``, but for its first entry (script or current directory)."""
    path = _own_path()
    user = _user_site(environ)
    if user and user not in path:
        # site.main adds a virtual environment's own packages, then the user's, then the system's.
        prefixes = [p for p in site.PREFIXES if p != sys.prefix or sys.prefix == sys.base_prefix]
        system = site.getsitepackages(prefixes)
        at = next((i for i, entry in enumerate(path) if entry in system), len(path))
        path[at:at] = [user, *(os.path.join(user, line) for line in pth_lines(user))]
    return list(dict.fromkeys(os.path.abspath(entry) for entry in pythonpath(environ) + path))


def _finder_folder(package: str) -> str:
    """Return where a setuptools editable finder takes the package from, or ''.

    Its table is read; finders are never called, since those of other build systems may start a build.
    """
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        mapping = getattr(module, "MAPPING", None)
        if isinstance(mapping, dict) and isinstance(mapping.get(package), str):
            return str(mapping[package])
    return ""


def _is_frozen(package: str) -> bool:
    import _imp

    return package in sys.builtin_module_names or bool(_imp.is_frozen(package))


def describe(package: str, environ: Mapping[str, str]) -> Facts:
    """Return the facts about this interpreter that decide which ``package`` a normal run would import."""
    return {
        "executable": sys.executable or "",
        "prefix": sys.prefix,
        "version": list(sys.version_info[:2]),
        "cache_tag": sys.implementation.cache_tag or "",
        "pycache_prefix": environ.get("PYTHONPYCACHEPREFIX") or sys.pycache_prefix or "",
        "path": normal_path(environ),
        "finder_folder": _finder_folder(package),
        "frozen": _is_frozen(package),
    }


def answer(package: str) -> Facts:
    """Describe this interpreter to gaudi-patch."""
    return describe(package, os.environ)
