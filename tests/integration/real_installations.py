"""Helpers of the tests in this directory: locate_real."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.target.installation import Installation
from tests.support.environments import clean_environment

REPOSITORY = Path(__file__).parents[2]


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


SITE = Path("lib", f"python{PYTHON}", "site-packages")


needs_uv = pytest.mark.skipif(importlib.util.find_spec("uv") is None, reason="uv is not installed")


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean_environment() | env,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def make_venv(prefix: Path, *options: str) -> Path:
    run(sys.executable, "-m", "venv", "--without-pip", *options, prefix)
    return prefix / "bin" / "python"


def pip(python: Path, *arguments: str | Path, **env: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--python", python)
    run(sys.executable, "-m", "pip", *quiet, *arguments, **env)


def imported(python: Path, **env: str) -> Path:
    """Return the package directory that a normal run of ``python`` loads."""
    out = run(python, "-c", "import lmcache; print(lmcache.__file__)", cwd=Path("/"), **env)
    return Path(out.strip()).parent


def agrees_with_import(found: Installation, python: Path, **env: str) -> bool:
    return imported(python, **env).resolve() == found.root / "lmcache"
