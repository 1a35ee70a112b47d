"""A real vLLM on the patched LMCache, pair by pair, on the emulated HPU.

They run when asked for: ``GAUDI_PATCH_TEST_PAIRS=all``, or a list such as ``0.5.6x0.26.0,0.4.4x0.17.1``. To
see a table, or the releases unpatched: ``python -m tests.support.vllm_pairs --help``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaudi_patch.smoke import levels
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import vllm_pairs
from tests.support.environments import EnvironmentUnavailableError
from tests.support.vllm_pairs import PAIRS, Pair

pytestmark = [pytest.mark.wheels, pytest.mark.torch]

# Each pair takes an environment of up to 3 GB: run when asked for, by `all` or a list of names.
_ASKED = os.environ.get("GAUDI_PATCH_TEST_PAIRS", "")
WANTED = [pair for pair in PAIRS if _ASKED == "all" or str(pair) in _ASKED.split(",")]
# How the releases fail on HPU as they are.
UNPATCHED = {
    Pair("0.5.6", "0.26.0"): ("connector", "blocks that vLLM had already"),
    Pair("0.4.4", "0.17.1"): ("inference", "TensorTuple"),
    Pair("0.4.2", "0.17.1"): ("inference", "Unsupported device platform"),
    Pair("0.3.10", "0.13.0"): ("inference", "Unsupported device platform"),
}


def _check(pair: Pair, folder: Path, **options: object) -> list[LevelResult]:
    if missing := {"connector", "inference"} - set(levels.names()):
        pytest.skip(f"no smoke level {', '.join(sorted(missing))}")
    try:
        return vllm_pairs.check(pair, folder, **options)  # type: ignore[arg-type]
    except EnvironmentUnavailableError as error:
        if os.environ.get("GAUDI_PATCH_TEST_REQUIRE_ENVIRONMENTS") == "1":
            raise
        pytest.skip(f"environment not available: {error}")


def _explain(results: list[LevelResult]) -> str:
    return "\n".join(f"{one.level}: {one.status}: {one.reason}\n{one.output_tail[-3000:]}" for one in results)


@pytest.mark.parametrize("pair", WANTED, ids=str)
def test_a_patched_pair_serves_vllm_from_the_cache(pair: Pair, tmp_path: Path) -> None:
    results = _check(pair, tmp_path)
    assert [one.status for one in results] == ["passed", "passed"], _explain(results)
    assert all(one.checks > 30 for one in results), _explain(results)
    hits = [request["lmcache"] for request in results[1].counters["answers"]["requests"]]
    assert max(hits) >= 256


@pytest.mark.parametrize("pair", [pair for pair in WANTED if pair in UNPATCHED], ids=str)
def test_an_unpatched_pair_fails_in_words_that_lead_to_apply(pair: Pair, tmp_path: Path) -> None:
    level, words = UNPATCHED[pair]
    (result,) = _check(pair, tmp_path, levels=(level,), patched=False)
    assert result.status == "failed", _explain([result])
    assert words in result.reason
    assert "gaudi-patch apply" in result.reason
