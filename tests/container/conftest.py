"""A fresh root for each test, and wheels instead of PyPI."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import cuda_build, debian_root, docker_stand_in, wheelhouse
from tests.support.container import Container
from tests.support.debian_root import Root
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable

FILES = Path(__file__).resolve().parents[2] / "gaudi_patch" / "container"
MakeRoot = Callable[..., Root]


@contextmanager
def _wheelhouse() -> Iterator[Path]:
    """Not below pytest's directory, which only its owner can read."""
    folder = Path(tempfile.mkdtemp(prefix="gaudi-patch-wheels-"))
    folder.chmod(0o755)
    yield wheelhouse.make(folder / "wheels")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def wheels(torch_python: Path) -> Iterator[Path]:
    with _wheelhouse() as made:
        yield made


def sha256_of(wheels: Path) -> str:
    """Return the digest that a reader of the Dockerfile computes from the wheel of gaudi-patch."""
    (wheel,) = wheels.glob("gaudi_patch-*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def sha256(wheels: Path) -> str:
    return sha256_of(wheels)


@pytest.fixture
def root(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRoot]:
    """``root(form=..., broken=..., compiler=..., user=..., workdir=..., python=...)``: a Gaudi image to build from.

    All images named by a Dockerfile are this one. The build context is the directory of wheels. ``python``: another
    Python's version, with a CUDA build of PyTorch, and wheels for it.
    """
    if not debian_root.possible():
        pytest.skip("a root file system can be entered by root alone, with unshare, chroot, setpriv and ip")
    scratch = tmp_path / "machine"

    def make(
        *, user: str = "root", workdir: str = "/", online: bool = False, env: Mapping[str, str] | None = None,
        python: str = "", **options: object,
    ) -> Root:  # fmt: skip
        scratch.mkdir()
        found = wheels
        try:
            if python:
                other = cuda_build.python_of(python)
                monkeypatch.setenv("GAUDI_PATCH_TEST_TORCH_PYTHON", str(other))
                found = stack.enter_context(_wheelhouse())
            image = debian_root.gaudi(scratch / "image", **options)  # type: ignore[arg-type]
        except EnvironmentUnavailableError as error:
            if python:  # depends on the machine: the project's own files cannot install a Python
                pytest.skip(f"environment not available: {error}")
            unavailable(error)
        image = replace(image, user=user, workdir=workdir, env={**image.env, **(env or {})})
        return Root(scratch, lambda name: image, found.parent, online=online)

    with ExitStack() as stack:
        yield make
    shutil.rmtree(scratch, ignore_errors=True)


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
    """Yield a root for all tests of a module, so that the same `docker build` runs only once."""
    with _fresh(wheels) as made:
        yield made
