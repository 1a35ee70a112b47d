"""The pool of a recipe fits the requested contexts, or the recipe is refused with the arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Done, gaudi_patch

EIGHT, SEVENTY = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


def recipe(mode: str, *options: str | Path) -> Done:
    return gaudi_patch("recipe", mode, "--lmcache", "0.5.6", "--json", *options, env={"HOME": "/nonexistent"})


def files(mode: str, *options: str | Path) -> str:
    done = recipe(mode, *options)
    assert done.code == 0, done
    return "\n".join(done.json["data"]["files"].values())


def test_a_pool_is_sized_by_the_model_and_said() -> None:
    # 131,072 tokens of 128 KiB are 16 GiB; two of them, plus 5 %.
    done = recipe("memory", "--model", EIGHT)
    text = "\n".join(done.json["data"]["files"].values())
    assert "max_local_cpu_size: 33.6 " in text
    assert "--max-model-len 131072" in text
    assert "--cpu-gb 33.6: 32 layers x 2 x 8 KV heads x 128 x 2 B" in done.json["data"]["notes"][-1]


def test_a_server_for_all_ranks_has_the_pools_of_all() -> None:
    options = ("--model", SEVENTY, "--tensor-parallel-size", "8")
    assert "max_local_cpu_size: 10.5 " in files("memory", *options)
    assert "--l1-size-gb 84.0" in files("multiprocess", *options)


@pytest.mark.parametrize(
    ("mode", "options", "held"),
    [
        ("memory", ("--cpu-gb", "5"), "40,960 of the 131,072"),
        ("disk", ("--cpu-gb", "5"), "40,960 of the 131,072"),
        ("shared", ("--cpu-gb", "0.5", "--max-model-len", "8192"), "4,096 of the 8,192"),
        ("multiprocess", ("--cpu-gb", "5", "--model", SEVENTY, "--tensor-parallel-size", "8"), "16,384 of the 131,072"),
    ],
)
def test_a_pool_of_less_than_one_request_is_refused(mode: str, options: tuple[str, ...], held: str) -> None:
    done = recipe(mode, *options)
    assert (done.code, done.code_of_error) == (2, "short-pool")
    assert held in done.json["errors"][0]["message"]


def test_what_the_refusal_advises_is_taken() -> None:
    hint = recipe("memory", "--cpu-gb", "5").json["errors"][0]["hint"]
    assert "--cpu-gb 33.6" in hint and "--max-model-len 40960" in hint
    assert recipe("memory", "--cpu-gb", "33.6").code == 0
    assert recipe("memory", "--cpu-gb", "5", "--max-model-len", "40960").code == 0


def test_a_config_json_goes_before_what_is_known_of_the_name(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64, "max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = files("memory", "--model", EIGHT, "--model-config", tmp_path)
    assert "max_local_cpu_size: 0.1 " in text
    assert "--max-model-len 2048" in text


def test_a_model_of_which_nothing_is_known_is_not_sized_and_that_is_said() -> None:
    done = recipe("memory", "--model", "nobody/model")
    assert "max_local_cpu_size: 5.0 " in "\n".join(done.json["data"]["files"].values())
    assert "was not sized by the model" in done.json["data"]["notes"][-1]
