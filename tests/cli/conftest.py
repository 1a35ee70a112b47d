"""Fixtures of this directory's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.tiny import Tiny


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    """Return a tiny LMCache in a directory with a difficult name."""
    return tiny.make(tmp_path / "a [bold]ü b")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
