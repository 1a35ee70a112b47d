"""The table of guards names existing code and existing tests; the command observes the effect of the edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guard import Guard
from tests.support.safety import GUARDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_can_be_taken_away(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text(encoding="utf-8").count(guard.code) == 1
    assert guard.code != guard.without
    assert [test for test in guard.tests if not (ROOT / test).is_file()] == []
    compile((ROOT / guard.file).read_text(encoding="utf-8").replace(guard.code, guard.without), guard.file, "exec")


def test_the_names_are_all_different() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)
