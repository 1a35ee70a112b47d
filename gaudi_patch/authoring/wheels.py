"""Pristine LMCache wheels, from PyPI or a directory, for those who maintain the patches."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gaudi_patch.disk import FileImage
from gaudi_patch.errors import Exit, GaudiPatchError


def cache_directory() -> Path:
    """Return where downloaded wheels are kept: GAUDI_PATCH_CACHE, or below the user's cache directory."""
    chosen = os.environ.get("GAUDI_PATCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "gaudi-patch"


def fetch(package: str, version: str, python: str = "3.11") -> Path:
    """Return the wheel of ``package`` for CPython ``python`` on Linux, downloaded once (``pip download --no-deps``)."""
    folder = cache_directory() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package}-{version}-cp{python.replace('.', '')}-*.whl"
    for found in sorted(folder.glob(pattern)):
        return found
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", python, "--dest", scratch, f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "download-failed",
                f"pip could not download {package} {version} for Python {python}",
                "look at the network and at pip's configuration, or give --wheel FILE",
                details=done.stderr.strip().splitlines()[-5:],
            )
        target = folder / wheels[0].name
        wheels[0].replace(target)
    return target


def read(wheel: Path, path: str) -> FileImage | None:
    """Read one file of a wheel; None if the wheel does not hold it."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            return FileImage(archive.read(path), 0o644)
        except KeyError:
            return None
