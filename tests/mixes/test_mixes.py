"""A sample of the mixes over every way, and faults of the patched LMCache that the mixes must detect.

The sample serves every second way in lazy mode and the others in eager mode. ``GAUDI_PATCH_TEST_FULL=1`` serves 2,016
mixes, half of those of each way in each mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.mixes import serve
from tests.mixes.ways import WAYS
from tests.smoke.conftest import patch
from tests.smoke.mutants import MUTANTS, Mutant
from tests.support import environments
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable

FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
RULES = ("lazy", "eager")
NAMES = {mutant.name: mutant for mutant in MUTANTS}

# Faults that no smoke level has as a mutant of its own.
_SCATTER = "                scattering(scatter_cpu_to_paged_kv)("
ENDED_TOO_EARLY = Mutant(
    "the server is told too early that its memory has been read",
    "lmcache/v1/multiprocess/transfer_context/worker_transfer.py",
    _SCATTER,
    f"                self._engine_driven_context.commit_retrieve(key, self._instance_id)\n{_SCATTER}",
)
ADAPTERS_ALIKE = Mutant(
    "in multiprocess mode all adapters are alike",
    "lmcache/gaudi/identity.py",
    '    if plain and set(identity) <= {"salt"}:',
    "    if plain:",
)


@pytest.fixture(scope="module")
def made(
    lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """``made(release)``: this module's patched environment of a release, which can run LMCache's server."""
    known: dict[str, Environment] = {}

    def make(release: str) -> Environment:
        if release not in known:
            lmcache_overlay(release)
            copy = patch(environments.overlay_copy(release, tmp_path_factory.mktemp("mixes")))
            try:
                known[release] = serve.with_server(copy)
            except EnvironmentUnavailableError as error:
                unavailable(error)
        return known[release]

    return make


@pytest.fixture
def environment(made: Callable[[str], Environment]) -> Environment:
    """Return the environment of the newest release."""
    return made("0.5.6")


def share(ways: Sequence[str], rules: str) -> tuple[Sequence[str], range]:
    """Return the ways and the mixes that are served in a mode."""
    place = RULES.index(rules)
    return (ways, range(56 * place + 1, 56 * place + 57)) if FULL else (ways[place::2], range(1, 4))


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("rules", RULES)
def test_every_way_serves_what_was_computed_and_promises_what_was_stored(environment: Environment, rules: str) -> None:
    ways, mixes = share([*WAYS], rules)
    outcome = serve.serve(environment.python, ways, mixes, rules)
    assert not outcome.red, f"{outcome.said}; python -m tests.mixes --rules {rules}{outcome.again}"
    assert outcome.counts.mixes == len(ways) * len(mixes)
    assert outcome.counts.hits > len(ways)
    assert outcome.counts.preempted > 0


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("rules", RULES)
def test_multiprocess_mode_of_0_5_5_serves_what_was_computed(made: Callable[[str], Environment], rules: str) -> None:
    # Backwards: what 0.5.6 serves in one mode, 0.5.5 serves in the other.
    ways, mixes = share([name for name, way in reversed(WAYS.items()) if way.multiprocess], rules)
    outcome = serve.serve(made("0.5.5").python, ways, mixes, rules)
    assert not outcome.red, f"{outcome.said}; python -m tests.mixes --release 0.5.5 --rules {rules}{outcome.again}"
    assert outcome.counts.hits > len(ways)
    assert outcome.counts.preempted > 0


def test_the_sample_serves_every_way_and_multiprocess_mode_in_both_modes() -> None:
    multiprocess = [name for name, way in WAYS.items() if way.multiprocess]
    served = {rules: [*share([*WAYS], rules)[0], *share(multiprocess[::-1], rules)[0]] for rules in RULES}
    assert {*served["lazy"], *served["eager"]} == {*WAYS}
    assert {*multiprocess} <= {*served["lazy"]} & {*served["eager"]}


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize(
    ("mutant", "way", "mix", "words"),
    [
        (NAMES["the prefix that vLLM has is written again"], "tails", 1, "after the load"),
        (NAMES["all salts are alike"], "tails", 7, "0 were stored for it"),
        (NAMES["a preempted request may resume with a hit"], "tails", 7, "may be loaded"),
        (NAMES["the last buffers of a store are not emptied"], "multiprocess", 1, "is committed"),
        (NAMES["a store brings the first chunks, whichever are missing"], "multiprocess", 1, "is committed"),
        (NAMES["a load writes the blocks that vLLM has"], "multiprocess", 1, "after the load"),
        (ENDED_TOO_EARLY, "multiprocess", 1, "after the load"),
        (ADAPTERS_ALIKE, "multiprocess", 2, "0 were stored for it"),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_a_fault_of_the_runtime_turns_one_mix_red_that_is_named(
    environment: Environment, mutant: Mutant, way: str, mix: int, words: str
) -> None:
    with mutant.put_into(environment.site_packages):
        outcome = serve.serve(environment.python, [way], [mix])
    assert outcome.red
    assert words in outcome.said
    assert outcome.again == f" --way {way} --mixes {mix}"


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
