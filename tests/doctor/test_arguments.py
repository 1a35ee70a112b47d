"""vLLM's command line, in the forms that people use."""

from __future__ import annotations

import json

import pytest

from gaudi_patch.doctor.arguments import parse

KV = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}


@pytest.mark.parametrize(
    "line",
    [
        f"vllm serve a-model --kv-transfer-config '{json.dumps(KV)}'",
        f"a-model --kv-transfer-config='{json.dumps(KV)}' --enforce-eager",
        f"--kv_transfer_config '{json.dumps(KV)}' a-model",
        "--kv-transfer-config.kv_connector LMCacheConnectorV1 --kv-transfer-config.kv_role=kv_both",
    ],
)
def test_every_form_of_the_kv_configuration_is_read(line: str) -> None:
    assert parse(line).kv == KV


def test_settings_of_lmcache_in_the_connector_are_found() -> None:
    extra = {"lmcache.chunk_size": 512, "use_native": False}
    line = f"""--kv-transfer-config '{json.dumps({**KV, "kv_connector_extra_config": extra})}'"""
    assert parse(line).lmcache_settings == {"chunk_size": 512}
    dotted = "--kv-transfer-config.kv_connector_extra_config.lmcache.chunk_size 512"
    assert parse(dotted).lmcache_settings == {"chunk_size": 512}


@pytest.mark.parametrize(
    ("line", "ranks"),
    [
        ("", 1),
        ("-tp 8", 8),
        ("-tp=8", 8),
        ("--tensor-parallel-size 4 --pipeline-parallel-size=2", 8),
        ("-tp 2 -pp 2 -dp 2", 8),
        ("-dp 16 -dpl 8", 8),
        ("-tp 16 --nnodes 2", 8),
        ("-tp many", 1),
    ],
)
def test_ranks_are_those_of_this_host(line: str, ranks: int) -> None:
    assert parse(line).ranks == ranks


def test_an_option_without_a_value_is_true_and_takes_no_other_option() -> None:
    found = parse("--enforce-eager --block-size 128 --no-enable-prefix-caching")
    assert found.options == {"enforce-eager": True, "block-size": "128", "no-enable-prefix-caching": True}
    assert parse("--block-size -1").options == {"block-size": "-1"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--kv-transfer-config '{", "the quotes do not match"),
        ("--kv-transfer-config {kv_connector:a}", "must be a JSON object, not '{kv_connector:a}'"),
        ("--kv-transfer-config []", "must be a JSON object"),
        ("--kv-transfer-config", "must be a JSON object"),
    ],
)
def test_what_cannot_be_read_is_said(line: str, problem: str) -> None:
    assert problem in parse(line).problem
