"""A sample of the mixes over every way, and faults of the patched LMCache that the mixes must detect.

``GAUDI_PATCH_TEST_FULL=1`` serves 1,344, as ``python -m tests.mixes`` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mixes import serve
from tests.mixes.ways import WAYS
from tests.smoke.conftest import patch
from tests.smoke.mutants import MUTANTS
from tests.support import environments
from tests.support.environments import Environment

FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
NAMES = {mutant.name: mutant for mutant in MUTANTS}


@pytest.fixture(scope="module")
def environment(lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return this module's patched environment."""
    lmcache_overlay("0.5.6")
    return patch(environments.overlay_copy("0.5.6", tmp_path_factory.mktemp("mixes")))


@pytest.mark.wheels
@pytest.mark.torch
def test_every_way_serves_what_was_computed_and_promises_what_was_stored(environment: Environment) -> None:
    outcome = serve.serve(environment.python, list(WAYS), range(1, 113 if FULL else 4))
    assert not outcome.red, f"{outcome.said}; python -m tests.mixes{outcome.again}"
    assert outcome.counts.mixes == len(WAYS) * (112 if FULL else 3)
    assert outcome.counts.hits > len(WAYS)
    assert outcome.counts.preempted > 0


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize(
    ("mutant", "mix", "words"),
    [
        ("the prefix that vLLM has is written again", 1, "after the load"),
        ("all salts are alike", 7, "0 were stored for it"),
        ("a preempted request may resume with a hit", 7, "may be loaded"),
    ],
)
def test_a_fault_of_the_runtime_turns_one_mix_red_that_is_named(
    environment: Environment, mutant: str, mix: int, words: str
) -> None:
    with NAMES[mutant].put_into(environment.site_packages):
        outcome = serve.serve(environment.python, ["tails"], [mix])
    assert outcome.red
    assert words in outcome.said
    assert outcome.again == f" --way tails --mixes {mix}"


def test_a_way_that_was_not_served_is_red() -> None:
    counted = {"mixes": 2, "requests": 5, "hits": 1, "hit_tokens": 64, "preempted": 0, "seconds": 1.0}
    result = {"status": "passed", "reason": "", "checks": 9, "counters": {"memory": counted}}
    assert not serve.read(result, ["memory"]).red
    assert serve.read(result, ["memory", "disk"]).said == "not served: disk"
    assert serve.read(result | {"status": "failed", "reason": "engine / disk: mix 3: x"}, ["memory"]).red


def test_an_interpreter_that_gives_no_result_is_red(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    python.chmod(0o755)
    outcome = serve.serve(python, ["memory"], [1])
    assert outcome.red
    assert outcome.said.startswith("ended with 3 and no result: no")
