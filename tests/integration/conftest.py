"""What the tests on real wheels share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.environments import clean_environment


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
    """Nothing of the developer's own environment decides a test."""
    kept = clean_environment()
    for name in set(os.environ) - set(kept):
        if not name.startswith("COV"):
            monkeypatch.delenv(name)
