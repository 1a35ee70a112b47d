"""guards.py and adapter.py on an HPU: what is refused, and what must not pass silently."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmcache.gaudi import adapter, guards
from lmcache.gaudi.guards import GaudiError

REFUSED: dict[str, dict[str, Any]] = {
    "use_layerwise": {"use_layerwise": True},
    "enable_blending": {"enable_blending": True},
    "remote_serde=cachegen": {"remote_serde": "cachegen"},
    "gds_path": {"gds_path": "/mnt"},
    "weka_path": {"weka_path": "/mnt"},
    "enable_p2p": {"enable_p2p": True},
    "pd_buffer_device=hpu": {"enable_pd": True, "pd_buffer_device": "hpu"},
    "pd_buffer_device=cuda": {"enable_pd": True, "pd_buffer_device": "cuda"},
    "nixl_buffer_device=hpu": {"extra_config": {"enable_nixl_storage": True}, "nixl_buffer_device": "hpu"},
    "nixl_buffer_device=None": {"extra_config": {"enable_nixl_storage": True}},
    "enable_lazy_memory_allocator": {"enable_lazy_memory_allocator": True},
    "enable_scheduler_bypass_lookup": {"enable_scheduler_bypass_lookup": True},
    "external_lookup_client": {"external_lookup_client": "mooncakestore://host:1"},
    "enable_async_loading with enable_pd": {
        "enable_pd": True,
        "pd_buffer_device": "cpu",
        "enable_async_loading": True,
    },
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_feature_that_cannot_work_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_pins_with_cuda", lambda: True)
    with pytest.raises(GaudiError, match=f"- {name}: "):
        guards.refuse_config(SimpleNamespace(**REFUSED[name]), "VLLM")


@pytest.mark.parametrize(("text", "refused"), [("self._cudart = torch.cuda.cudart()", True), ("pass", False)])
def test_the_lazy_allocator_is_refused_only_where_it_needs_cuda(
    text: str, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "lazy_memory_allocator.py"
    module.write_text(text)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(module)))
    config = SimpleNamespace(enable_lazy_memory_allocator=True)
    if refused:
        with pytest.raises(GaudiError, match="pins memory with CUDA's runtime"):
            guards.refuse_config(config, "VLLM")
    else:
        guards.refuse_config(config, "VLLM")


def test_all_refused_features_are_named_at_once() -> None:
    config = SimpleNamespace(use_layerwise=True, gds_path="/mnt")
    with pytest.raises(GaudiError, match=r"serving engine SGLANG[^$]*use_layerwise[^$]*gds_path"):
        guards.refuse_config(config, "SGLANG")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"remote_serde": "naive"},
        {"enable_pd": True, "pd_buffer_device": "cpu"},
        {"extra_config": {"enable_nixl_storage": True}, "nixl_buffer_device": "cpu"},
        {"nixl_buffer_device": "cuda"},
        {"enable_async_loading": True},
    ],
)
def test_what_works_is_not_refused(settings: dict[str, Any]) -> None:
    guards.refuse_config(SimpleNamespace(**settings), "VLLM")


@pytest.mark.parametrize(
    ("answering", "ranks", "mla", "silent"),
    [
        ([0], 2, False, [1]),
        ([1, 2], 4, False, [0, 3]),
        ([1], 2, True, [0]),
        ([0, 1], 2, False, []),
        ([0], 2, True, []),
        ([0], 1, False, []),
        (None, 2, False, []),
        ([], 2, False, []),
    ],
)
def test_every_rank_that_loads_must_answer_lookups(
    answering: list[int] | None, ranks: int, mla: bool, silent: list[int]
) -> None:
    config = SimpleNamespace(lookup_server_worker_ids=answering)
    metadata = SimpleNamespace(world_size=ranks, use_mla=mla)
    if silent:
        with pytest.raises(GaudiError, match=rf"ranks \[{', '.join(map(str, silent))}\] would load"):
            guards.refuse_partial_lookups(config, metadata)
    else:
        guards.refuse_partial_lookups(config, metadata)


@pytest.mark.parametrize(
    ("answering", "ranks", "mla", "silent"),
    [
        (0, 2, False, "[1]"),
        (1, 2, True, "[0]"),
        (0, 2, True, ""),
        (0, 1, False, ""),
        (-1, 2, False, ""),
        (-1, 2, True, ""),
        (None, 2, False, ""),
    ],
)
def test_every_rank_that_loads_must_answer_lookups_by_the_name_of_0_3_9_too(
    answering: int | None, ranks: int, mla: bool, silent: str
) -> None:
    config = SimpleNamespace(mla_lookup_server_worker_id=answering)
    metadata = SimpleNamespace(world_size=ranks, use_mla=mla)
    if silent:
        words = re.escape(f"mla_lookup_server_worker_id={answering}: ranks {silent} would load")
        with pytest.raises(GaudiError, match=words):
            guards.refuse_partial_lookups(config, metadata)
    else:
        guards.refuse_partial_lookups(config, metadata)


def test_layers_of_several_kinds_are_refused_on_disk() -> None:
    disk = SimpleNamespace(local_disk="/tmp")
    with pytest.raises(GaudiError, match=r"caches of 2 kinds, .* unset local_disk"):
        guards.refuse_hybrid_on_disk(disk, 2)
    guards.refuse_hybrid_on_disk(disk, 1)
    guards.refuse_hybrid_on_disk(SimpleNamespace(local_disk=None), 2)


def test_degraded_mode_becomes_an_error_with_its_cause() -> None:
    cause = ValueError("boom")
    with pytest.raises(GaudiError, match="boom") as caught:
        guards.refuse_degraded_mode(cause)
    assert caught.value.__cause__ is cause


def test_a_short_load_is_an_error_even_if_the_overlap_hides_it_from_a_count() -> None:
    # vLLM has 300 tokens, LMCache loads from 256 on: 44 tokens of overlap outnumber a lost tail of 30.
    expected = torch.ones(542, dtype=torch.bool)
    expected[:256] = False
    retrieved = expected.clone()
    retrieved[512:] = False
    assert int(retrieved.sum()) >= 542 - 300
    with pytest.raises(GaudiError, match="request x: 30 of 286 cached tokens could not be loaded"):
        adapter.refuse_short_load("x", retrieved, expected)
    adapter.refuse_short_load("x", expected, expected)


@pytest.mark.parametrize("vllm", ["resumed_req_ids", "resumed_from_preemption"])
def test_a_resumed_request_is_known_whichever_way_vllm_says_it(vllm: str) -> None:
    said = {"resumed_req_ids": {"b"}, "resumed_from_preemption": [False, True]}[vllm]
    cached = SimpleNamespace(**{vllm: said})
    assert [adapter.is_resumed(cached, number, name) for number, name in enumerate("ab")] == [False, True]


def test_slot_mappings_stay_on_the_host() -> None:
    assert adapter.slot_mapping_device("hpu") == torch.device("cpu")


def test_registered_caches_reach_the_connector() -> None:
    seen = []
    connector = SimpleNamespace(initialize_kvcaches_ptr=lambda **kwargs: seen.append(kwargs), transfer=None)
    layers = {"a": object(), "b": object()}
    impl = SimpleNamespace(
        lmcache_engine=SimpleNamespace(gpu_connector=connector), kv_caches=layers, _vllm_config="vllm's"
    )
    assert adapter.register_kv_caches(impl)
    assert seen == [{"kvcaches": list(layers.values()), "vllm_config": "vllm's"}]


@pytest.mark.parametrize("engine", [None, SimpleNamespace(gpu_connector=None)])
def test_a_process_without_a_connector_registers_nothing(engine: Any) -> None:
    assert adapter.register_kv_caches(SimpleNamespace(lmcache_engine=engine, kv_caches={"a": object()}))
