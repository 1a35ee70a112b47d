"""Pristine LMCache wheels, from PyPI or a directory, for maintainers of the patches."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

from gaudi_patch.disk import FileImage
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import step
from gaudi_patch.target import process

#: Timeout for a wheel of 100 MB from a slow mirror; pip has its own timeouts for a silent one.
_DOWNLOAD_SECONDS = 3600.0


def cache_directory() -> Path:
    """Return the directory for downloaded wheels: GAUDI_PATCH_CACHE, or one below the user's cache directory."""
    chosen = os.environ.get("GAUDI_PATCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "gaudi-patch"


def fetch(package: str, version: str, python: str = "3.11") -> Path:
    """Return the wheel of ``package`` for CPython ``python`` on Linux, downloaded once (``pip download --no-deps``).

    Raises ``no-wheel`` (exit 3) if the index has none, ``download-failed`` (exit 4) for any other failure of pip.
    """
    folder = cache_directory() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package}-{version}-cp{python.replace('.', '')}-*.whl"
    for found in sorted(folder.glob(pattern)):
        return found
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", python, "--dest", scratch, f"{package}=={version}"]
        with step(f"downloading the wheel of {package} {version} for Python {python}"):
            done = process.run(command, timeout=_DOWNLOAD_SECONDS, environ=os.environ, cwd=Path.cwd())
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode and _is_missing(done.tail):
            raise NoWheelError(package, version, python)
        if done.returncode or not wheels:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "download-failed",
                f"pip could not download {package} {version} for Python {python}",
                "check the network and pip's configuration, or give --wheel FILE",
                details=done.tail.strip().splitlines()[-5:],
            )
        target = folder / wheels[0].name
        wheels[0].replace(target)
    return target


class NoWheelError(GaudiPatchError):
    """pip reached the index, which has no wheel of this release for this Python."""

    def __init__(self, package: str, version: str, python: str) -> None:
        super().__init__(
            Exit.NOT_FOUND,
            "no-wheel",
            f"the index has no wheel of {package} {version} for Python {python} on this platform",
            "give --wheel FILE, or another release or Python",
        )


def _is_missing(said: str) -> bool:
    """Return whether pip reports that there is no such wheel, rather than that the index was unreachable."""
    unreachable = ("Retrying", "connection", "Could not fetch", "timed out", "SSLError", "ProxyError")
    return "No matching distribution found" in said and not any(word in said for word in unreachable)


def read(wheel: Path, path: str) -> FileImage | None:
    """Read one file of a wheel; return None if the wheel does not contain it."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            return FileImage(archive.read(path), 0o644)
        except KeyError:
            return None
