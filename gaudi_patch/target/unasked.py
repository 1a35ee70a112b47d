"""Find the package without running an interpreter, for entry points and probes, which have no time for one.

What only the interpreter knows is missed: PYTHONPATH, .pth files, another copy that comes first. If the directories
are ambiguous, the user names the site-packages directory.
"""

# ruff: noqa: PTH118, PTH120, PTH208
# Why: as in interpreter.py.

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.opening import is_directory
from gaudi_patch.target import interpreter as interpreters
from gaudi_patch.target.image_root import PACKAGES
from gaudi_patch.target.installation import Target
from gaudi_patch.target.refusals import bad_target, is_named_directory, unreadable
from gaudi_patch.target.search import Search, search_image, search_interpreter
from gaudi_patch.target.site_folder import scan


def search(target: Target, package: str, environ: Mapping[str, str]) -> Search:
    """Return the search result for ``target``, read from directories alone.

    Raises ``needs-interpreter`` (exit 2) if the directory cannot be determined.
    """
    if target.root is not None:
        return search_image(target.root, package)
    if target.path is not None:
        if not is_named_directory(target.path):
            raise bad_target(f"--path {target.path}: no such directory", "give a site-packages directory")
        return _folder(str(target.path), f"--path {target.path}", package, environ)
    if target.python is not None:
        return _of(interpreters.named_python(target.python, environ), f"--python {target.python}", package, environ)
    active = interpreters.active_environment(environ)
    if active is not None:
        variable, prefix = active
        executable = interpreters.active_python(variable, prefix)
        return _of(executable, f"the active environment ({variable})", package, environ)
    return _own("the interpreter that runs gaudi-patch", package, environ)


def _of(executable: str, how: str, package: str, environ: Mapping[str, str]) -> Search:
    if interpreters.is_own(executable):
        return _own(how, package, environ)
    prefix = os.path.dirname(os.path.dirname(executable))
    folders = [path for path in _site_folders(prefix) if _may_be_directory(os.path.join(path, package))]
    if len(folders) != 1:
        places = " and ".join(folders) or f"no directory below {os.path.join(prefix, 'lib')}"
        raise GaudiPatchError(
            Exit.USAGE,
            "needs-interpreter",
            f"--fast runs no interpreter, and {places} may be what {executable} imports {package} from",
            "give its site-packages directory with --path, or leave out --fast",
            executable,
        )
    return _folder(folders[0], how, package, environ)


def _may_be_directory(path: str) -> bool:
    """Return whether ``path`` is a directory, or cannot be seen: then it may be the one that import takes."""
    try:
        return is_directory(Path(path))
    except OSError:
        return True


def _own(how: str, package: str, environ: Mapping[str, str]) -> Search:
    """Return what this process's interpreter would import, without asking it."""
    return replace(search_interpreter(interpreters.own_interpreter(package, environ), how, package), interpreter=None)


def _folder(path: str, how: str, package: str, environ: Mapping[str, str]) -> Search:
    try:
        folder = scan(path, package)
    except OSError as error:
        raise unreadable(error, path) from error
    prefix = environ.get("PYTHONPYCACHEPREFIX") or None
    return Search(package, folder.path, how, [folder], folder.found, [], pycache_prefix=prefix)


def _site_folders(prefix: str) -> list[str]:
    """Return the directories of packages below an interpreter's prefix, without duplicates."""
    found: dict[str, None] = {}
    for library in ("lib", "lib64", "local/lib"):
        base = os.path.join(prefix, library)
        try:
            names = sorted(os.listdir(base))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise unreadable(error, base) from error
        for name in names:
            for packages in PACKAGES if name.startswith("python3") else ():
                path = os.path.join(base, name, packages)
                if _may_be_directory(path):
                    found[os.path.realpath(path)] = None
    return list(found)
