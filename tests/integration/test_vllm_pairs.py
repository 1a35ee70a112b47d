"""A real vLLM on the patched LMCache, pair by pair, on the emulated HPU.

Each pair takes an environment of up to 3 GB and several minutes. ``GAUDI_PATCH_TEST_PAIRS=all``, or a list such as
``0.5.6x0.26.0,0.4.4x0.17.1``, selects the pairs. Without it, the first pair runs if environments are required (as in
CI), else none. For the table of all pairs, or the releases unpatched: ``python -m tests.support.vllm_pairs --help``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.smoke.outcome import LevelResult
from tests.support import vllm_pairs
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import REQUIRED, unavailable
from tests.support.vllm_pairs import PAIRS, Pair

WANTED = vllm_pairs.pairs_of(os.environ.get("GAUDI_PATCH_TEST_PAIRS") or (str(PAIRS[0]) if REQUIRED else ""))
NOT_ASKED_FOR = pytest.mark.skip(reason="a pair takes minutes: ask for it with GAUDI_PATCH_TEST_PAIRS=all, or a list")
# How the unpatched releases fail on HPU.
UNPATCHED = {
    Pair("0.5.6", "0.26.0"): ("connector", "blocks that vLLM already had"),
    Pair("0.4.4", "0.17.1"): ("inference", "TensorTuple"),
    Pair("0.4.2", "0.17.1"): ("inference", "Unsupported device platform"),
    Pair("0.3.10", "0.13.0"): ("inference", "Unsupported device platform"),
}

pytestmark = [pytest.mark.wheels, pytest.mark.torch]


def _each(pairs: Iterable[Pair]) -> list[Any]:
    return [pytest.param(pair, id=str(pair), marks=() if pair in WANTED else NOT_ASKED_FOR) for pair in pairs]


def _check(pair: Pair, folder: Path, **options: Any) -> list[LevelResult]:
    try:
        return vllm_pairs.check(pair, folder, **options)
    except EnvironmentUnavailableError as error:
        unavailable(error)


def _explain(results: list[LevelResult]) -> str:
    return "\n".join(f"{one.level}: {one.status}: {one.reason}\n{one.output_tail[-3000:]}" for one in results)


@pytest.mark.parametrize("pair", _each(PAIRS))
def test_a_patched_pair_serves_vllm_from_the_cache(pair: Pair, tmp_path: Path) -> None:
    results = _check(pair, tmp_path)
    assert [one.status for one in results] == ["passed", "passed"], _explain(results)
    assert all(one.checks > 30 for one in results), _explain(results)
    hits = [asked.lmcache for asked in results[1].counters.requests["answers"]]
    assert max(hits) >= 256


@pytest.mark.parametrize("lmcache", ["0.5.5", "0.5.6"])
@pytest.mark.skipif(Pair("0.5.6", "0.26.0") not in WANTED, reason="a pair takes minutes: GAUDI_PATCH_TEST_PAIRS")
def test_a_server_that_dies_costs_no_wrong_answer_and_no_standstill(lmcache: str, tmp_path: Path) -> None:
    named = {"inference": ["--cases", "dead-server"]}
    (result,) = _check(Pair(lmcache, "0.26.0"), tmp_path, levels=("inference",), arguments=named)
    assert result.status == "passed", _explain([result])
    assert "a dead server: right answers after" in result.reason


@pytest.mark.parametrize("pair", _each(UNPATCHED))
def test_an_unpatched_pair_fails_in_words_that_lead_to_apply(pair: Pair, tmp_path: Path) -> None:
    level, words = UNPATCHED[pair]
    (result,) = _check(pair, tmp_path, levels=(level,), patched=False)
    assert result.status == "failed", _explain([result])
    assert words in result.reason
    assert "gaudi-patch apply" in result.reason
