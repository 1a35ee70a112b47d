"""Search the user's target for a package; ``locate`` decides on the result.

Nothing is imported. At most one other interpreter is run: the one that was named, or the active environment's if
--path lies in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.errors import refused
from gaudi_patch.target import interpreter as interpreters
from gaudi_patch.target.installation import Target as Target
from gaudi_patch.target.interpreter import Interpreter
from gaudi_patch.target.invocation import option
from gaudi_patch.target.refusals import bad_target, is_named_directory, is_named_file, unreadable
from gaudi_patch.target.site_folder import DistInfo, Importable, Resolve, SiteFolder, scan


@dataclass(eq=False, repr=False)
class Search:
    """The result of a search for a target.

    ``where`` names the target in messages, ``how`` says why it was chosen. ``imported`` is what ``import`` would
    load. ``resolve`` follows the links of a path on the host, ``place`` finds and resolves an absolute path that the
    target itself names (they differ in an image only).
    """

    package: str
    where: str
    how: str
    folders: list[SiteFolder]
    imported: Importable | None
    warnings: list[str]
    interpreter: Interpreter | None = None
    pycache_prefix: str | None = None
    resolve: Resolve = os.path.realpath
    place: Callable[[str], str] = os.path.realpath
    #: The root of an unpacked image
    image_root: str | None = None

    @property
    def python(self) -> Path | None:
        """Return the target's interpreter, None where it has none."""
        return self.interpreter.executable if self.interpreter is not None else None

    @property
    def infos(self) -> list[DistInfo]:
        """Return the valid dist-info directories."""
        return [info for folder in self.folders for info in folder.infos]

    @property
    def broken(self) -> list[tuple[str, str]]:
        """Return the invalid dist-info directories, each with the reason."""
        return [item for folder in self.folders for item in folder.broken]

    @property
    def legacy(self) -> list[str]:
        """Return metadata from before wheels."""
        return [path for folder in self.folders for path in folder.legacy]

    @property
    def leftovers(self) -> list[str]:
        """Return what an interrupted pip left."""
        return [path for folder in self.folders for path in folder.leftovers]

    @property
    def is_empty(self) -> bool:
        """Return whether there is no trace of the package."""
        return self.imported is None and not (self.infos or self.broken or self.legacy)


def search_default(python: Path | None, package: str, environ: Mapping[str, str]) -> Search:
    """Search ``--python``, else the active environment, else this process's interpreter, else python3 on PATH."""
    if python is not None:
        executable = interpreters.named_python(python, environ)
        return search_interpreter(interpreters.identify(executable, package, environ), f"--python {python}", package)
    active = interpreters.active_environment(environ)
    if active is not None:
        variable, prefix = active
        executable = interpreters.active_python(variable, prefix)
        interpreter = interpreters.identify(executable, package, environ)
        return search_interpreter(interpreter, f"the active environment ({variable})", package)
    own = interpreters.own_interpreter(package, environ)
    search = search_interpreter(own, "the interpreter that runs gaudi-patch", package)
    if search.is_empty:
        on_path = interpreters.which("python3", environ)
        if on_path is not None and not interpreters.is_own(on_path):
            interpreter = interpreters.identify(on_path, package, environ)
            return search_interpreter(interpreter, "python3 on PATH", package)
    return search


def search_interpreter(interpreter: Interpreter, how: str, package: str) -> Search:
    """Return what a normal run of ``interpreter`` would find."""
    if interpreter.frozen:
        raise refused(
            "not-a-folder-install",
            f"{package} is built into the interpreter {interpreter.executable}; there is no file to patch",
            "use an interpreter that imports it from a directory",
        )
    warnings: list[str] = []
    folders: dict[str, SiteFolder] = {}
    for entry in interpreter.path:
        try:
            folder = scan(entry, package)
        except OSError as error:  # import skips such an entry too
            warnings.append(f"{entry} is on the path but cannot be read: {error.strerror or error}")
            continue
        folders.setdefault(folder.path, folder)  # lib64 is often a link to lib
    imported = first_import(list(folders.values()))
    if (imported is None or imported.kind == "namespace") and interpreter.finder_folder:
        imported = Importable(interpreter.finder_folder, "package")
    return Search(
        package=package,
        where=str(interpreter.executable),
        how=how,
        folders=list(folders.values()),
        imported=imported,
        warnings=warnings,
        interpreter=interpreter,
        pycache_prefix=interpreter.pycache_prefix,
    )


def first_import(folders: list[SiteFolder]) -> Importable | None:
    """Return what ``import`` loads: the first package or module, or without any a namespace package."""
    importable = [folder.found for folder in folders if folder.found is not None]
    return next((f for f in importable if f.kind != "namespace"), importable[0] if importable else None)


def search_image(root: Path, package: str) -> Search:
    """Search ``--root``: every environment of an unpacked image, running nothing."""
    from gaudi_patch.target.image_root import ImageRoot

    if not is_named_directory(root):
        raise bad_target(
            f"--root {root}: no such directory", "unpack the image into a directory, and give that directory"
        )
    image = ImageRoot(str(root))
    warnings: list[str] = []
    folders: list[SiteFolder] = []
    try:
        entries = image.site_folders()
    except OSError as error:
        raise unreadable(error, image.root) from error
    for entry in entries:
        try:
            folders.append(scan(entry, package, image.resolve))
        except OSError as error:
            warnings.append(f"{entry} cannot be read: {error.strerror or error}")
    # The directories belong to different environments: only a package beside its metadata counts.
    with_info = [folder for folder in folders if folder.infos]
    return Search(
        package=package,
        where=f"the image at {image.root}",
        how=f"--root {root}",
        folders=folders,
        imported=first_import(with_info or folders),
        warnings=warnings,
        resolve=image.resolve,
        place=lambda path: image.resolve(image.on_host(path)),
        image_root=image.root,
    )


def search_folder(path: Path, package: str, environ: Mapping[str, str]) -> Search:
    """Search ``--path``: only this directory. If it lies in the active environment, ask that environment's
    interpreter.
    """
    if not is_named_directory(path):
        raise bad_target(
            f"--path {path}: no such directory",
            "give a site-packages directory, or the top of a git checkout",
        )
    try:
        folder = scan(str(path), package)
    except OSError as error:
        raise unreadable(error, str(path)) from error
    interpreter = _interpreter_of(folder.path, package, environ)
    search = Search(
        package=package,
        where=folder.path,
        how=f"--path {path}",
        folders=[folder],
        imported=folder.found,
        warnings=[],
        interpreter=interpreter,
        pycache_prefix=environ.get("PYTHONPYCACHEPREFIX") or None,
    )
    if search.is_empty and is_named_file(path / "__init__.py"):
        raise bad_target(
            f"--path {path}: this is a package itself", f"give the directory that contains it: {path.absolute().parent}"
        )
    if search.is_empty and interpreters.python_in(str(path)) is not None:
        raise bad_target(
            f"--path {path}: this is an environment, not its site-packages",
            f"use {option('--python', str(path))}",
        )
    if interpreter is not None and folder.found is not None:
        imported = search_interpreter(interpreter, search.how, package).imported
        if imported is not None and os.path.realpath(imported.path) != os.path.realpath(folder.found.path):
            search.warnings.append(
                f"{interpreter.executable} imports {package} from {imported.path}, not from {folder.found.path}"
            )
    return search


def _interpreter_of(folder: str, package: str, environ: Mapping[str, str]) -> Interpreter | None:
    """Return the interpreter that is known to import from ``folder``: this process's, or the active environment's.

    No other is searched: ``--path`` names files, and may lead into an image whose programs must not run.
    """
    own = interpreters.own_interpreter(package, environ)
    if folder in map(os.path.realpath, own.path):
        return own
    active = interpreters.active_environment(environ)
    executable = interpreters.python_in(active[1]) if active else None
    if active is None or executable is None:
        return None
    if not (folder + os.sep).startswith(os.path.realpath(active[1]) + os.sep):
        return None
    interpreter = interpreters.identify(executable, package, environ)
    return interpreter if folder in map(os.path.realpath, interpreter.path) else None
