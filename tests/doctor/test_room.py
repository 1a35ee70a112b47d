"""The doctor fails if the pool is smaller than a request, or the host's memory smaller than the pools."""

from __future__ import annotations

import pytest

from gaudi_patch.doctor.arguments import parse
from gaudi_patch.doctor.room import _length, _model
from tests.doctor.hosts import Gaudi, findings

EIGHT, SEVENTY = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


@pytest.mark.parametrize(
    ("options", "pool", "level", "said"),
    [
        (f"-tp 1 --model {EIGHT} --max-model-len 131072", 5.0, "failure", "5 GB holds 40,960 of the 131,072 tokens"),
        (f"-tp 1 --model {EIGHT} --max-model-len 128K", 16.5, "ok", "room for 1 request(s) of 131,072 tokens"),
        (f"--model {SEVENTY} -tp 8", 4.0, "failure", "of the 131,072 tokens of one request"),
        (f"--model {SEVENTY} -tp 8", 5.5, "ok", "room for 1 request(s) of 131,072 tokens"),
        (f"--model {SEVENTY} -tp 8", 200.0, "failure", "8 pools of 200 GB"),
        ("--model nobody/model --max-model-len 4096", 5.0, "ok", "no shape is known"),
        (f"--model {EIGHT} --max-model-len auto", 5.0, "ok", "the longest request is not known"),
    ],
)
def test_a_configuration_that_does_not_fit_is_found(
    gaudi: Gaudi, options: str, pool: float, level: str, said: str
) -> None:
    gaudi.options = options
    gaudi.config["max_local_cpu_size"] = pool
    found = findings(gaudi.run())["config.memory"]
    assert found["level"] == level, found
    assert said in found["what"], found


@pytest.mark.parametrize(
    ("given", "tokens"), [("4096", 4096), ("8k", 8000), ("8K", 8192), ("1.5k", 1500), ("1M", 1024**2), ("auto", None)]
)
def test_lengths_are_read_as_vllm_reads_them(given: str, tokens: int | None) -> None:
    assert _length(given) == tokens


@pytest.mark.parametrize(
    "line", [f"vllm serve {EIGHT} --port 1", f"{EIGHT} --port 1", f"serve {EIGHT}", f"--model {EIGHT}"]
)
def test_the_model_is_found_wherever_vllm_takes_it(line: str) -> None:
    assert _model(parse(line)) == EIGHT
    assert _model(parse("--port 8000")) == ""
