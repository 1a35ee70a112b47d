"""`size`: the table, its JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import gaudi_patch

MODEL = "meta-llama/Llama-3.1-70B-Instruct"


def test_without_a_model_the_known_ones_are_listed() -> None:
    data = gaudi_patch("size", "--json").json["data"]
    assert {"model": MODEL, "token_bytes": 327_680, "longest": 131_072} in data["models"]
    assert MODEL in gaudi_patch("size").out


def test_the_table_goes_from_2k_to_256k_tokens() -> None:
    done = gaudi_patch("size", MODEL, "--tensor-parallel-size", "8", "--json")
    rows = done.json["data"]["contexts"]
    assert [row["context"] for row in rows] == [2048 << step for step in range(8)]
    by_context = {row["context"]: row for row in rows}
    assert by_context[131_072]["prompt_bytes"] == 5 * 2**30
    assert by_context[131_072]["prompt_host_bytes"] == 40 * 2**30
    text = gaudi_patch("size", MODEL, "--tensor-parallel-size", "8").out
    assert "80 layers" in text
    assert "131,072  5 GiB         40 GiB" in text
    assert "made for 131,072 tokens" in text


def test_a_model_is_sized_by_its_own_directory(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for arguments in ([tmp_path], ["mine", "--model-config", tmp_path], ["--model-config", tmp_path / "config.json"]):
        done = gaudi_patch("size", *arguments, "--max-model-len", "1024", "--json")
        assert done.json["data"]["token_bytes"] == 2 * 2 * 2 * 16 * 2
        assert len(done.json["data"]["contexts"]) == 1
        assert done.json["data"]["contexts"][0]["card_requests"] is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["who/knows"], "unknown-model"),
        ([MODEL, "--card", "h100"], "usage"),
        (["--model-config", "/nowhere/config.json"], "model-not-sized"),
    ],
)
def test_what_cannot_be_sized_is_a_usage_error(arguments: list[str], code: str, tmp_path: Path) -> None:
    done = gaudi_patch("size", *arguments, "--json", env={"HOME": str(tmp_path)})
    assert (done.code, done.code_of_error) == (2, code)
