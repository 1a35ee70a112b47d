"""Fixtures of this directory's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import scenarios
from tests.support.tiny import Tiny


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)
