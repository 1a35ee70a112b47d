"""The smoke checks alone see every one of these faults of the patched LMCache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.smoke.conftest import explain, judge, patch
from tests.smoke.mutants import MUTANTS, Mutant
from tests.support import environments
from tests.support.environments import Environment

VERSION = "0.5.6"
SOURCES = Path(__file__).resolve().parents[2] / "patches" / "runtime"


@pytest.fixture(scope="module")
def environment(lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return a patched environment for this module, edited by one test after the other."""
    lmcache_overlay(VERSION)
    return patch(environments.overlay_copy(VERSION, tmp_path_factory.mktemp("mutants")))


def test_there_are_at_least_25_and_no_two_alike() -> None:
    assert len({(one.file, one.old, one.new) for one in MUTANTS}) == len(MUTANTS) >= 25


def test_every_edit_of_the_runtime_fits_it_exactly_once() -> None:
    # Cheap, so that a change of the runtime which moves a mutant's place is seen before the mutants run.
    for one in MUTANTS:
        if one.file.startswith("lmcache/gaudi/"):
            assert (SOURCES / one.file).read_text().count(one.old) == 1, one.name
        assert one.old != one.new


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_the_fault_fails_a_smoke_level(mutant: Mutant, environment: Environment) -> None:
    file = environment.site_packages / mutant.file
    sound = file.read_text()
    assert sound.count(mutant.old) == 1
    faulty = sound.replace(mutant.old, mutant.new)
    compile(faulty, str(file), "exec")
    file.write_text(faulty)
    try:
        results = judge(environment.python, mutant.level, rules=(mutant.rules,))
    finally:
        file.write_text(sound)
    (result,) = results
    assert result.status == "failed", explain(results)
    # A check has seen it: not a probe that could not run.
    assert result.checks > 0, explain(results)
    assert not any("SyntaxError" in entry["message"] or "NameError" in entry["message"] for entry in result.failures)
