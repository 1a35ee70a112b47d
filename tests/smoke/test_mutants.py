"""The smoke checks alone detect every one of these faults of the patched LMCache.

A run tests every fourth fault; ``GAUDI_PATCH_TEST_FULL=1`` tests all, as ``python -m tests.scripts.mutants`` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts import mutants as command
from tests.smoke.conftest import explain
from tests.smoke.guard_mutants import GUARD_MUTANTS
from tests.smoke.mutants import MUTANTS, Mutant
from tests.support.environments import Environment

SOURCES = Path(__file__).resolve().parents[2] / "patches" / "runtime"
FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"


@pytest.fixture(scope="module")
def environment(lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return this module's patched environment, which the tests edit one after the other."""
    lmcache_overlay(command.VERSION)
    return command.environment(tmp_path_factory.mktemp("mutants"))


def test_there_are_at_least_100_and_no_two_alike() -> None:
    assert len({(one.file, one.old, one.new) for one in MUTANTS}) == len(MUTANTS) >= 100
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert set(GUARD_MUTANTS) < set(MUTANTS)


def test_every_edit_of_the_runtime_fits_it_exactly_once() -> None:
    # Cheap: if a change of the runtime moves a mutant's place, this fails before the mutants run.
    for one in MUTANTS:
        if one.file.startswith("lmcache/gaudi/"):
            assert (SOURCES / one.file).read_text().count(one.old) == 1, one.name
        assert one.old != one.new


def test_a_sample_has_every_level_and_a_guard() -> None:
    sample = command.sample(4)
    assert {one.level for one in sample} == {one.level for one in MUTANTS}
    assert set(sample) & set(GUARD_MUTANTS)
    assert len(sample) < len(MUTANTS) / 3


def test_a_mutant_that_does_not_fit_is_an_error_and_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a = 1\na = 1\n")
    for old, new, error in (("a = 1", "a = 2", ValueError), ("b", "c", ValueError), ("a = 1\na", "(", SyntaxError)):
        with pytest.raises(error), Mutant("a fault", "module.py", old, new).put_into(tmp_path):
            pass
        assert (tmp_path / "module.py").read_text() == "a = 1\na = 1\n"


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("mutant", MUTANTS if FULL else command.sample(4), ids=lambda one: one.name)
def test_the_fault_fails_a_smoke_level(mutant: Mutant, environment: Environment) -> None:
    result = command.run(mutant, environment)
    assert command.is_killed(result), explain([result])
