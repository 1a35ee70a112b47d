"""The text of preflight.py, the check before a process serves. It needs only the standard library."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gaudi_patch.recipes.release import Release

NAME = "preflight.py"

_SCRIPT = '''\
"""Refuse to start unless the installed LMCache is the one that this recipe is for; written by gaudi-patch recipe.

Run by the interpreter that serves. With --release only the release is compared, for hosts that need no patch.
Exit codes: 0 if LMCache matches the recipe, 1 if not, with the reason on stderr.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import sys

RELEASE = {release}
APPLY = {apply}
# sha256 of every file of the patched LMCache; None: the file must be missing.
FILES = {files}


def problem(release_only):
    """Return why this LMCache must not serve, or "" if it may."""
    spec = importlib.util.find_spec("lmcache")  # does not import LMCache
    if spec is None or not spec.submodule_search_locations:
        return "LMCache is not installed for " + sys.executable
    try:
        version = importlib.metadata.version("lmcache")
    except importlib.metadata.PackageNotFoundError:
        return "LMCache has no metadata for " + sys.executable
    if version.split("+")[0] != RELEASE.split("+")[0]:
        return "LMCache %s is installed, but this recipe is for %s: run gaudi-patch recipe again" % (version, RELEASE)
    if release_only:
        return ""
    root = os.path.dirname(os.path.abspath(list(spec.submodule_search_locations)[0]))
    other = [name for name, digest in sorted(FILES.items()) if found(os.path.join(root, *name.split("/"))) != digest]
    if not other:
        return ""
    what = "is not patched" if len(other) == len(FILES) else "differs from the patched release"
    named = ", ".join(other[:3]) + (" and %d more" % (len(other) - 3) if len(other) > 3 else "")
    return "LMCache %s in %s %s (%s): an upgrade may have undone it; run: %s" % (version, root, what, named, APPLY)


def found(path):
    """Return the sha256 of a file, or None if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    reason = problem("--release" in sys.argv[1:])
    if reason:
        sys.exit("refusing to start: " + reason)
'''


def script(release: Release, apply: str) -> str:
    """Return the script for ``release``; ``apply`` is the command line that patches it."""
    files = json.dumps(_digests(release.files), indent=4).replace(": null", ": None")
    return _SCRIPT.replace("{release}", repr(release.version)).replace("{apply}", repr(apply)).replace("{files}", files)


def _digests(files: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: files[name] for name in sorted(files)}
