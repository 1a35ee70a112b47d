"""Shared fixtures of the tests on real wheels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.real_installations import SITE, make_venv
from tests.support.environments import clean_environment
from tests.support.fake_wheel import fake_wheel


@pytest.fixture(scope="session")
def manifest() -> Path:
    """Return the directory of the series under test: the repository's, or GAUDI_PATCH_TEST_MANIFEST."""
    given = os.environ.get("GAUDI_PATCH_TEST_MANIFEST")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "patches"
    if not (folder / "manifest.toml").is_file():
        pytest.skip(f"no manifest.toml in {folder}")
    return folder


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate every test from the developer's own environment."""
    kept = clean_environment()
    for name in set(os.environ) - set(kept):
        if not name.startswith("COV"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_wheel(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def shared_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment that every test leaves empty."""
    return make_venv(tmp_path_factory.mktemp("shared") / "venv")


@pytest.fixture
def venv(shared_venv: Path) -> Iterator[Path]:
    site = shared_venv.parents[1] / SITE
    before = set(site.iterdir())
    yield shared_venv
    for path in set(site.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
