"""The runtime's sources follow the project's own rules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.conftest import REPOSITORY
from tests.support.environments import clean_environment


@pytest.mark.parametrize("arguments", [["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]])
def test_ruff_has_nothing_to_say(runtime_tree: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--config", str(REPOSITORY / "pyproject.toml"), "lmcache"],
        cwd=runtime_tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.torch
def test_mypy_strict_has_nothing_to_say(runtime_tree: Path, torch_python: Path, tmp_path: Path) -> None:
    # LMCache itself is not in the tree: its classes are Any here.
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports"]
    command += ["--python-version", "3.10", "--python-executable", str(torch_python)]
    done = subprocess.run(
        [*command, "--explicit-package-bases", "--cache-dir", str(tmp_path), "-p", "lmcache.gaudi"],
        cwd=runtime_tree,
        capture_output=True,
        text=True,
        env=clean_environment() | {"MYPYPATH": str(runtime_tree)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_module_fits_a_few_screens(runtime_tree: Path) -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in runtime_tree.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 450}


def test_each_module_is_named_with_its_job_in_the_package_and_in_the_guide() -> None:
    package = REPOSITORY / "patches/runtime/lmcache/gaudi"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    listed = re.findall(r"^\* :mod:`\.(\w+)` -- \w", (package / "__init__.py").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(modules)
    guide = (REPOSITORY / "gaudi_patch/guides/patch.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)\.py` \| \w", guide, re.MULTILINE)) == sorted({*modules, "__init__"})
