"""Find where a normal run of this interpreter would import from, without importing anything of the environment.

Run by answer.py under the target's interpreter with ``-I``, so that PYTHONPATH, the user site and the current directory
cannot hijack the question; ``describe`` then adds what a run without ``-I`` would see. gaudi-patch also calls it in its
own process if that is the target. Imports nothing of gaudi_patch and runs on Python 3.8 or newer.
"""

# ruff: noqa: PTH100, PTH109, PTH112, PTH116, PTH118, PTH120, PTH208
# Why: entries of sys.path are strings, compared as strings, and pathlib costs this script a third of its time.

from __future__ import annotations

import os
import site
import stat
import sys
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # importing typing would slow this script down
if TYPE_CHECKING:
    from typing import TypedDict

    class Facts(TypedDict):
        """An interpreter's description of itself; "" for a value that it lacks."""

        executable: str
        prefix: str
        version: list[int]
        cache_tag: str
        pycache_prefix: str
        path: list[str]
        finder_folder: str
        frozen: bool


#: Size limit of a .pth file in bytes; real ones have a few lines.
PTH_LIMIT = 1024 * 1024


def pth_lines(folder: str, resolve: Callable[[str], str] = os.path.realpath) -> list[str]:
    """Return the path lines of the ``.pth`` files in ``folder``, to which they may be relative.

    ``import`` lines are not run.
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
        except OSError:  # site itself skips a file that it cannot read
            continue
        directories += [
            line.rstrip() for line in lines if line.strip() and not line.startswith(("#", "import ", "import\t"))
        ]
    return directories


def _lines(path: str) -> list[str]:
    """Return the lines in the first MiB of a regular file; never wait for a FIFO or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return []
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return []
        return file.read(PTH_LIMIT).decode("utf-8", "surrogateescape").splitlines()


def pythonpath(environ: Mapping[str, str]) -> list[str]:
    """Return the absolute entries of PYTHONPATH; as for Python, an empty entry is the current directory."""
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
    """Return sys.path without the directory of the running script, which is not the target's."""
    path = list(sys.path)
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False) or not path:
        return path
    try:
        starts = {"", os.getcwd(), os.path.dirname(os.path.realpath(sys.argv[0]))}
    except OSError:  # the current directory was deleted
        starts = {""}
    return path[1:] if path[0] in starts else path


def normal_path(environ: Mapping[str, str]) -> list[str]:
    """Return sys.path of a plain ``python`` in ``environ``, without its first entry (script or current directory)."""
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
    """Return the directory from which a setuptools editable finder imports the package, or ''.

    Only its table is read. Finders are never called, since those of other build systems may start a build.
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
    """Return the facts of this interpreter that determine which ``package`` a normal run would import."""
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
