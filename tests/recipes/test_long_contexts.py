"""131,072 tokens of an 8B model, and of a 70B model on eight cards: recipe, doctor and engine, scaled down.

The factor is 32, on the tokens alone: a request has 4,096 tokens, with every byte of the model's own layers. So pools
are 1/32 of what `recipe` gives 131,072 tokens, and the old pool of 5 GB becomes 0.16 GB. Of eight ranks, one is run:
the pools of the others are the same.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes import serving
from tests.recipes.test_compose import words
from tests.recipes.test_stores import patched
from tests.support.cli import Done, gaudi_patch
from tests.support.environments import Environment

__all__ = ["patched"]
pytestmark = [pytest.mark.wheels, pytest.mark.torch]

FACTOR = 32
LENGTH = 131_072 // FACTOR
#: Model, ranks, and the layers, heads and head size of a rank; the pool in GB for 131,072 tokens.
MODELS = [
    pytest.param("meta-llama/Llama-3.1-8B-Instruct", 1, "32,8,128", 33.6, id="8B"),
    pytest.param("meta-llama/Llama-3.1-70B-Instruct", 8, "80,1,128", 10.5, id="70B on 8 cards"),
]


@pytest.mark.parametrize(
    ("model", "ranks", "shape", "pool"), MODELS if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else MODELS[1:]
)
def test_the_whole_prompt_is_a_hit_and_the_old_pool_is_refused(
    model: str, ranks: int, shape: str, pool: float, patched: Callable[[str], Environment], tmp_path: Path
) -> None:
    python = patched("0.5.6").python

    def recipe(*options: str | Path) -> Done:
        given = ("--model", model, "--tensor-parallel-size", str(ranks), "--python", python, "--json")
        return gaudi_patch("recipe", "memory", *given, *options, env={"HOME": "/nonexistent"})

    whole = recipe("--max-model-len", "131072")
    assert f"max_local_cpu_size: {pool:g} " in whole.json["data"]["files"]["lmcache.yaml"]
    old = recipe("--max-model-len", "131072", "--cpu-gb", "5")
    # One request of 131,072 tokens of 40 KiB is exactly 5 GiB: only 8B is refused.
    assert [error["code"] for error in old.json["errors"]] == (["short-pool"] if ranks == 1 else [])
    short = recipe("--max-model-len", str(LENGTH), "--cpu-gb", "0.1")
    assert short.code_of_error == "short-pool"

    out = tmp_path / "out"
    done = recipe("--max-model-len", str(LENGTH), "--out", out)
    assert done.code == 0, done
    config = out / "lmcache.yaml"
    (line,) = [line for line in config.read_text().splitlines() if line.startswith("max_local_cpu_size")]
    size = float(line.split()[1])
    assert size == pytest.approx(pool / FACTOR, abs=0.1)

    def doctor() -> dict[str, str]:
        script = (out / "serve.sh").read_text()
        line = shlex.join(["vllm", *words(script)[2:]])
        found = gaudi_patch("doctor", "--json", "--python", python, "--config", config, "--vllm-args", line)
        return next(one for one in found.json["data"]["findings"] if one["id"] == "config.memory")

    assert (doctor()["level"], "room for" in doctor()["what"]) == ("ok", True), doctor()
    with serving.engine(out / "serve.sh", TEST_SHAPE=f"{shape},{LENGTH}") as engine:
        engine.store(1)
        engine.store(2)
        assert engine.look(1)["promised"] == LENGTH
        assert engine.look(2)["promised"] == LENGTH, "two prompts, as --prompts has it"
    config.write_text(config.read_text().replace(line, "max_local_cpu_size: 0.1"))
    assert doctor()["level"] == "failure"
    assert f"of the {LENGTH:,} tokens of one request" in doctor()["what"]
