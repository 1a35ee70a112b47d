"""The tiny release from which the tests build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import patched_wheel
from tests.support.patched_wheel import Release


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return patched_wheel.release(tmp_path)
