"""`--version`: every version that matters in a bug report.

Never fails; anything that cannot be determined is reported as such.
"""

from __future__ import annotations

import platform
import subprocess
import sys

from gaudi_patch import __version__
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.escape import visible
from gaudi_patch.series.lock import SCHEMA
from gaudi_patch.series.manifest import load
from gaudi_patch.target import packages
from gaudi_patch.target.locate import Target, locate


def version_text() -> str:
    """Return the versions of gaudi-patch and its dependencies, then of the default target and its, one per line."""
    return "\n".join(map(visible, [*_tool(), *_manifest(), *_target()]))


def _tool() -> list[str]:
    lines = [f"gaudi-patch {__version__}", f"python {platform.python_version()} ({sys.executable})"]
    there = packages.find(sys.path)
    for name in ("typer", "rich", "unidiff", "packaging", "gitpython", "jsonschema"):
        version = there[name].version if name in there else _elsewhere(name)
        lines.append(f"{name} {version or 'is not installed'}")
    return [*lines, _git(), f"{platform.system()} {platform.release()} {platform.machine()}"]


def _elsewhere(name: str) -> str | None:
    """Return the version of a distribution that is in no directory: in a zip file, or behind an import hook."""
    from importlib import metadata  # with its parser of mail it takes a third of an empty program's time

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git() -> str:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "git is not installed"
    return done.stdout.strip().replace("git version", "git") or "git cannot be run"


def _manifest() -> list[str]:
    try:
        manifest = load()
    except GaudiPatchError as error:
        return [f"manifest: {error}"]
    return [f"manifest schema {SCHEMA}, {len(manifest.series)} series, {len(manifest.patches)} patches"]


def _target() -> list[str]:
    """Return the target of a command without --python, --path or --root."""
    try:
        installation = locate(Target())
        versions = packages.packages(installation)
    except (GaudiPatchError, OSError) as error:
        return [f"target: none by default ({error})"]
    python = f"{installation.python} " if installation.python else ""
    lines = [
        f"target: {python}({installation.how})",
        f"lmcache {installation.version or 'of unknown version'} ({installation.root})",
    ]
    return [*lines, *(f"{name} {version or 'is not installed'}" for name, version in versions.items())]
