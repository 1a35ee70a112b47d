"""A fresh root for each test, and wheels in place of PyPI."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import docker_stand_in, wheelhouse
from tests.support.container import Container

FILES = Path(__file__).resolve().parents[2] / "gaudi_patch" / "container"


@pytest.fixture(scope="session")
def wheels(torch_python: Path) -> Iterator[Path]:
    """Not below pytest's directory, which only its owner can read."""
    folder = Path(tempfile.mkdtemp(prefix="gaudi-patch-wheels-"))
    folder.chmod(0o755)
    yield wheelhouse.make(folder / "wheels")
    shutil.rmtree(folder)


@contextmanager
def _fresh(wheels: Path) -> Iterator[Container]:
    root = Path(tempfile.mkdtemp(prefix="gaudi-patch-root-"))
    root.chmod(0o755)
    made = Container(root, wheelhouse.base_image(root / "base"), wheels)
    script = Path(docker_stand_in.__file__)
    made.stand_in("docker", f'#!/bin/sh\nexec {sys.executable} {script} {root} "$@"\n')
    yield made
    shutil.rmtree(root)


@pytest.fixture
def container(wheels: Path) -> Iterator[Container]:
    """Yield a fresh root."""
    with _fresh(wheels) as made:
        yield made


@pytest.fixture(scope="module")
def shared_container(wheels: Path) -> Iterator[Container]:
    """Yield a root for all tests of a module, whose `docker build` need not build the same twice."""
    with _fresh(wheels) as made:
        yield made
