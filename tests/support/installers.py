"""Environments made by the real pip and the real uv, from wheels on disk, never from an index."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.environments import clean_environment


@dataclass(frozen=True)
class Venv:
    """A virtual environment. ``uv_cache`` is the cache that uv links from."""

    prefix: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        (found,) = (self.prefix / "lib").glob("python*/site-packages")
        return found

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the interpreter; no bytecode is written unless ``env`` says so."""
        return run([self.python, *arguments], {"PYTHONDONTWRITEBYTECODE": "1", **(env or {})})

    def pip(self, *arguments: str | Path) -> None:
        must([sys.executable, "-m", "pip", "--python", self.python, *arguments], self.env)

    def uv(self, *arguments: str | Path) -> None:
        must([uv_binary(), "pip", *arguments, "--python", self.python, "--offline"], self.env)


def venv(prefix: Path, env: Mapping[str, str] | None = None) -> Venv:
    """Return an empty environment, without pip."""
    must([sys.executable, "-m", "venv", "--without-pip", prefix], {})
    return Venv(prefix.resolve(), env or {})


def installed(prefix: Path, wheel: Path, installer: str) -> Venv:
    """Return an environment with ``wheel`` in it, by "pip", "uv" or "uv-MODE"; uv's cache is next to ``prefix``."""
    made = venv(prefix, {"UV_CACHE_DIR": str(prefix.parent / "uv-cache")})
    if installer == "pip":
        made.pip("install", "--quiet", "--no-deps", "--no-index", wheel)
    else:
        mode = installer.partition("-")[2] or "hardlink"
        made.uv("install", "--quiet", "--no-deps", "--no-index", f"--link-mode={mode}", wheel)
    return made


def uv_binary() -> str:
    try:
        import uv
    except ImportError:
        pytest.skip("uv is not installed (pip install gaudi-patch[test])")
    return str(uv.find_uv_bin())


def run(
    arguments: list[str | Path], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.fspath(one) for one in arguments],
        capture_output=True,
        text=True,
        env=clean_environment() | dict(env),
        cwd=cwd,
        timeout=600,
        check=False,
    )


def must(arguments: list[str | Path], env: Mapping[str, str], cwd: Path | None = None) -> str:
    """Run a command, which must succeed; return its output."""
    done = run(arguments, env, cwd)
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def uv_project(folder: Path, requirement: str, find_links: Path, *settings: str, python: str = ">=3.10") -> Path:
    """Create a uv project that requires ``requirement``; ``settings`` are additional lines of its table [tool.uv]."""
    folder.mkdir()
    lines = [
        "[project]",
        'name = "site"',
        'version = "1"',
        f'requires-python = "{python}"',
        f'dependencies = ["{requirement}"]',
        "[tool.uv]",
        f'find-links = ["{find_links}"]',
        *settings,
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")
    return folder
