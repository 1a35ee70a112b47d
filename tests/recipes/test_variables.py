"""The vLLM or vllm-gaudi of the release knows every VLLM_ variable that a recipe sets."""

from __future__ import annotations

import pytest

from gaudi_patch.recipes.compose import MODES
from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import load
from tests.integration.test_vllm_pairs import WANTED
from tests.recipes.test_compose import recipe
from tests.support import vllm_pairs
from tests.support.environments import EnvironmentUnavailableError
from tests.support.vllm_pairs import Pair

#: vllm-gaudi's own (vllm_gaudi/extension/features.py, vllm_gaudi/extension/runtime.py).
OF_VLLM_GAUDI = {"VLLM_CONTIGUOUS_PA", "VLLM_DEFRAG", "VLLM_UNIFIED_ATTN"}
LONG = 131_072


def variables(version: str) -> set[str]:
    found = set()
    for mode in MODES:
        if mode == "multiprocess" and version not in ("0.5.5", "0.5.6"):
            continue
        for process in recipe(mode, version, True, max_model_len=LONG).processes:
            found |= {one.name for one in process.variables if one.name.startswith("VLLM_")}
    return found


@pytest.mark.parametrize("version", [one.id for one in load().series if one.id != "0.3.7"])
def test_a_time_limit_that_vllm_no_longer_reads_is_not_written(version: str) -> None:
    manifest = load()
    old = {"0.13.0", "0.14.1 to 0.17.1", "0.18.1rc1 to 0.19.1", "0.20.1rc0 to 0.21.0"}
    named = pairs.vllm_gaudi(pairs.fitting(manifest, version))
    assert ("VLLM_RPC_TIMEOUT" in variables(version)) == (set(named.split(", ")) <= old), named


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("pair", WANTED, ids=str)
def test_vllm_knows_every_variable_that_is_set(pair: Pair) -> None:
    try:
        source = (vllm_pairs.layers(pair)[0] / "vllm" / "envs.py").read_text()
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")
    wanted = variables(pair.lmcache) - OF_VLLM_GAUDI
    assert wanted
    assert {name for name in wanted if f'"{name}":' not in source} == set()
