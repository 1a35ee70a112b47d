"""Refusals of an installation: each names every path involved, and what to do next."""

# ruff: noqa: PTH120
# Why: entries of sys.path are strings.

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.opening import is_directory, is_file, is_there
from gaudi_patch.target.invocation import option, pip_line

if TYPE_CHECKING:
    from gaudi_patch.target.search import Search


def refusal(code: str, message: str, hint: str, *paths: str) -> GaudiPatchError:
    """Return a refusal with the paths involved, for machines."""
    return GaudiPatchError(Exit.REFUSED, code, message, hint, details=list(paths))


def bad_target(message: str, hint: str) -> GaudiPatchError:
    """Return the error for an unusable --python, --path or --root"""
    return GaudiPatchError(Exit.USAGE, "bad-target", message, hint)


def unreadable(error: OSError, path: str) -> GaudiPatchError:
    """Return the error for an existing target that this user may not read, or that is not readable."""
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "unreadable",
        f"{error.filename or path} cannot be read: {error.strerror or error}",
        "run gaudi-patch as a user who may read the installation",
    )


def is_named_directory(path: Path) -> bool:
    """Return whether ``path``, which the user named, is a directory; raises ``unreadable`` where it cannot be seen."""
    try:
        return is_directory(path)
    except OSError as error:
        raise unreadable(error, str(path)) from error


def is_named_file(path: Path) -> bool:
    """Return whether ``path``, which the user named, is a file; raises ``unreadable`` where it cannot be seen."""
    try:
        return is_file(path)
    except OSError as error:
        raise unreadable(error, str(path)) from error


def cannot_run(executable: str, why: str) -> GaudiPatchError:
    """Return the error for an interpreter of the target that does not start or gives no answer."""
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "interpreter-failed",
        f"the Python interpreter {executable} cannot be run: {why}",
        "point --python at a Python 3.8 or newer of the environment that has LMCache, or --path at its site-packages "
        "directory",
    )


def ambiguous(search: Search, paths: list[str]) -> GaudiPatchError:
    """Return the error for two or more valid metadata, or two kinds of metadata in one directory."""
    folders = list(dict.fromkeys(os.path.dirname(path) for path in paths))
    if len(folders) > 1:
        hint = "uninstall all but one, or choose one: " + " or ".join(option("--path", folder) for folder in folders)
    else:
        hint = f"uninstall {search.package} until none is left in {folders[0]}, then install it once"
    return refusal(
        "ambiguous-installation",
        f"{len(paths)} installations of {search.package} are found for {search.where}: {' and '.join(paths)}",
        hint,
        *paths,
    )


def shadowed(search: Search, imported: str, metadata: str) -> GaudiPatchError:
    """Return the error for metadata that belongs to another package than import would load."""
    return refusal(
        "shadowed-installation",
        f"import would load {search.package} from {imported}, but the metadata is {metadata}",
        f"remove {os.path.dirname(imported)} from the path (PYTHONPATH, user site, .pth), or remove the unwanted copy",
        imported,
        metadata,
    )


def without_metadata(search: Search) -> GaudiPatchError:
    """Return the error for a missing valid dist-info, naming what exists instead."""
    package, imported = search.package, search.imported
    real_import = imported.path if imported and imported.kind == "package" else None
    if search.legacy:
        where = f", imported from {real_import}" if real_import else ""
        old, new = (pip_line(search.python, *words, package) for words in (["uninstall", "--yes"], ["install"]))
        hint = f"install the wheel instead: `{old}`, then `{new}`"
        if real_import and is_there(Path(real_import).parent / ".git"):
            hint += f"; or patch the checkout itself with {option('--path', os.path.dirname(real_import))}"
        return refusal(
            "legacy-install",
            f"{' and '.join(search.legacy)}: {package} was installed the way that preceded wheels "
            f"(setup.py){where}; such an install lists no files and cannot be patched safely",
            hint,
            *search.legacy,
        )
    if search.broken:
        listed = "; ".join(f"{path}: {why}" for path, why in search.broken)
        hint = f"remove the broken directory and reinstall {package}"
        if any(is_directory(Path(path, "gaudi-patch.journal")) for path, _ in search.broken):
            # The journal knows what else was left behind.
            hint = f"keep that directory and reinstall {package}; the next apply or rollback then cleans it up"
        return GaudiPatchError(
            Exit.NOT_FOUND,
            "broken-metadata",
            f"{package} has no valid metadata for {search.where} ({listed})",
            hint,
            details=[path for path, _ in search.broken],
        )
    if real_import:
        top = os.path.dirname(real_import)
        is_checkout = is_there(Path(top, ".git"))
        return refusal(
            "no-metadata",
            f"{real_import} contains {package}, but neither a dist-info directory beside it nor a .git in {top} "
            "identifies it"
            if not is_checkout
            else f"{real_import} is a git checkout of {package} without installed metadata",
            f"patch the checkout with {option('--path', top)}" if is_checkout else f"install {package} with pip or uv",
            real_import,
        )
    details = [*search.leftovers, *search.warnings]
    if imported is not None:
        details.append(f"{imported.path} has no __init__.py: it is left over from an uninstalled package")
    return GaudiPatchError(
        Exit.NOT_FOUND,
        "not-installed",
        f"{package} is not installed for {search.where} ({search.how})",
        _where_else(search),
        details=details,
    )


def _where_else(search: Search) -> str:
    """Return the hint for a target without the package, by how the target was named."""
    if search.image_root or search.how.startswith("--path"):
        return "give its site-packages directory, or the top of a git checkout, with --path"
    if search.how.startswith("--python"):
        return (
            f"install {search.package} there (`gaudi-patch guide quick-start`, step 2), or choose another interpreter "
            "with --python"
        )
    return "activate the environment that has it, or choose it with --python, --path or --root"
