"""Engines that would read other blocks than LMCache fills, and requests for which nothing may be loaded."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lmcache.gaudi import adapter, plugin
from lmcache.gaudi.guards import GaudiError

PAIR = (torch.zeros(4, 2, 1, 1), torch.zeros(4, 2, 1, 1))
LATENT = torch.zeros(4, 2, 1)


class Settings:
    """Settings that answer as vllm-gaudi's Config does: an unknown name raises AssertionError."""

    def __init__(self, **values: bool) -> None:
        self._values = values

    def __getattr__(self, name: str) -> bool:
        assert name in self._values, f"Unknown run-time configuration parameter: {name}!"
        return self._values[name]


class SlicingCache:
    """VLLMKVCache up to v0.21.0."""

    def fetch_from_cache(self, cache: Any, blocks: Any) -> Any:
        return cache[: blocks.size(0)]


class FlaggedCache:
    """VLLMKVCache from v0.24.0 on."""

    def fetch_from_cache(self, cache: Any, blocks: Any) -> Any:
        return cache.index_select(0, blocks) if getattr(self, "_fetch_by_id", False) else cache[: blocks.size(0)]


def _set_fetch_by_id(cache: Any, value: bool) -> None:
    cache._fetch_by_id = value


class FlaggingImpl:
    def forward(self) -> None:
        _set_fetch_by_id(self, True)


class OtherImpl:
    def forward_mha(self) -> None:
        pass


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(
        settings: Settings, cache: Any = FlaggedCache, attention: Any = FlaggingImpl, latent: Any = OtherImpl
    ) -> None:
        for name, content in {
            "vllm_gaudi.extension.runtime": {"get_config": lambda: settings},
            "vllm_gaudi.extension.utils": {"VLLMKVCache": cache},
            "vllm_gaudi.attention.backends.hpu_attn": {"HPUAttentionImpl": attention, "HPUMLAImpl": latent},
        }.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)

    return install


OFF = {"use_contiguous_pa": False, "defrag": False}
DEFRAG, CONTIGUOUS, UNIFIED = "export VLLM_DEFRAG=false", "export VLLM_CONTIGUOUS_PA=false", "unset VLLM_UNIFIED_ATTN"


def advice(error: pytest.ExceptionInfo[GaudiError]) -> list[str]:
    """Return the lines after the reasons."""
    return [line for line in str(error.value).splitlines()[1:] if not line.startswith("- ")]


@pytest.mark.parametrize(
    ("settings", "cache", "caches", "words", "safe"),
    [
        ({**OFF, "defrag": True}, FlaggedCache, [PAIR], "online defragmentation", [DEFRAG]),
        # What VLLM_CONTIGUOUS_PA=true alone turns on, for prefills that read by block and for those that do not.
        ({"use_contiguous_pa": True, "defrag": True}, FlaggedCache, [PAIR], "online defragmentation", [DEFRAG]),
        ({"use_contiguous_pa": True, "defrag": True}, SlicingCache, [PAIR], "defragmentation", [DEFRAG, CONTIGUOUS]),
        ({**OFF, "unified_attn": True}, SlicingCache, [PAIR], "unified attention", [UNIFIED]),
        ({**OFF, "use_contiguous_pa": True}, SlicingCache, [PAIR], "contiguous paged attention", [CONTIGUOUS]),
        ({**OFF, "use_contiguous_pa": True}, FlaggedCache, [LATENT], "prefills of models with latent", [CONTIGUOUS]),
        ({**OFF, "use_contiguous_pa": True}, FlaggedCache, [(LATENT, None, None, None)], "latent", [CONTIGUOUS]),
        ({**OFF, "use_contiguous_pa": True}, None, [PAIR], "contiguous paged attention", [CONTIGUOUS]),
    ],
)
def test_an_engine_that_reads_other_blocks_is_refused_with_the_settings_of_its_reasons(
    install: Any, settings: dict[str, bool], cache: Any, caches: list[Any], words: str, safe: list[str]
) -> None:
    install(Settings(**settings), cache)
    with pytest.raises(GaudiError, match=words) as caught:
        plugin.refuse_engine(caches)
    assert advice(caught) == safe


def with_slopes(slopes: Any) -> Any:
    layers = {"mamba": object(), "attention": SimpleNamespace(impl=SimpleNamespace(alibi_slopes=slopes))}
    return SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context=layers))


@pytest.mark.parametrize("settings", [OFF, {"use_contiguous_pa": True, "defrag": True}])
def test_a_model_with_alibi_is_refused_and_no_setting_is_advised(install: Any, settings: dict[str, bool]) -> None:
    """vllm-gaudi asserts contiguous paged attention for ALiBi, and drops its bias for a cached prefix."""
    install(Settings(**settings), SlicingCache)
    with pytest.raises(GaudiError, match="this model has ALiBi") as caught:
        plugin.refuse_engine([PAIR], with_slopes(torch.ones(4)))
    assert advice(caught) == ["serve this model without LMCache: leave --kv-transfer-config out"]


def test_models_without_alibi_and_other_platforms_are_not_refused_for_it(install: Any) -> None:
    plugin.refuse_engine([PAIR], with_slopes(torch.ones(4)))
    install(Settings(**OFF))
    plugin.refuse_engine([PAIR], with_slopes(None))


@pytest.mark.parametrize(
    ("settings", "cache", "latent", "caches"),
    [
        (OFF, SlicingCache, OtherImpl, [PAIR]),
        (OFF, SlicingCache, OtherImpl, [LATENT]),
        ({**OFF, "unified_attn": False}, SlicingCache, OtherImpl, [PAIR]),
        ({**OFF, "use_contiguous_pa": True}, FlaggedCache, OtherImpl, [PAIR]),
        ({**OFF, "use_contiguous_pa": True}, FlaggedCache, FlaggingImpl, [LATENT]),
    ],
)
def test_an_engine_that_reads_its_own_blocks_starts(
    install: Any, settings: dict[str, bool], cache: Any, latent: Any, caches: list[Any]
) -> None:
    install(Settings(**settings), cache, latent=latent)
    plugin.refuse_engine(caches, SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=False)))


def test_a_flag_that_no_attention_sets_is_no_way_to_read_by_block(install: Any) -> None:
    install(Settings(**{**OFF, "use_contiguous_pa": True}), FlaggedCache, attention=OtherImpl)
    with pytest.raises(GaudiError, match="every hit would give wrong tokens"):
        plugin.refuse_engine([PAIR])


def test_all_reasons_are_given_at_once(install: Any) -> None:
    install(Settings(use_contiguous_pa=True, defrag=True, unified_attn=True), SlicingCache)
    with pytest.raises(GaudiError) as caught:
        plugin.refuse_engine([PAIR], SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=True)))
    assert str(caught.value).count("\n- ") == 4
    assert advice(caught) == [UNIFIED, DEFRAG, CONTIGUOUS, "leave --enable-sleep-mode out"]


def test_an_engine_that_sleeps_is_refused_without_vllm_gaudi_too() -> None:
    asleep = SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=True))
    with pytest.raises(GaudiError, match="LMCache accepts them only once"):
        plugin.refuse_engine([PAIR], asleep)
    plugin.refuse_engine([PAIR])


def test_the_multiprocess_worker_refuses_the_same_engines(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModuleType("vllm.config")
    config.get_current_vllm_config_or_none = lambda: SimpleNamespace(model_config=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    install(Settings(**{**OFF, "use_contiguous_pa": True}), SlicingCache)
    with pytest.raises(GaudiError, match="contiguous paged attention"):
        adapter.register_multiprocess(SimpleNamespace(kv_caches={}), {"layer": PAIR})
    install(Settings(**OFF))
    adapter.register_multiprocess(SimpleNamespace(kv_caches={}), {"layer": PAIR})
    asleep = SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=True))
    config.get_current_vllm_config_or_none = lambda: asleep  # type: ignore[attr-defined]
    with pytest.raises(GaudiError, match="enable_sleep_mode"):
        adapter.register_multiprocess(SimpleNamespace(kv_caches={}), {"layer": PAIR})


def test_the_multiprocess_worker_takes_the_caches_of_one_model_once() -> None:
    with pytest.raises(GaudiError, match=r"for another model.*restart vLLM"):
        adapter.register_multiprocess(SimpleNamespace(kv_caches={"layer": PAIR}), {"layer": PAIR})


def request(outputs: int = 0, **more: Any) -> Any:
    return SimpleNamespace(request_id="r", num_output_tokens=outputs, **more)


@pytest.mark.parametrize(
    ("asked", "computes"),
    [
        (request(0, skip_reading_prefix_cache=False), False),
        (request(1, skip_reading_prefix_cache=False), True),
        (request(0, skip_reading_prefix_cache=True), True),
        (request(0), False),
        (request(0, sampling_params=SimpleNamespace(prompt_logprobs=None), pooling_params=None), False),
        (request(0, sampling_params=SimpleNamespace(prompt_logprobs=0)), True),
        (request(0, sampling_params=None, pooling_params=object()), True),
    ],
)
def test_nothing_is_promised_where_the_engine_would_answer_wrongly(
    asked: Any, computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("lmcache.integration.vllm.vllm_v1_adapter")
    made.LoadSpec = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    impl = SimpleNamespace(load_specs={})
    assert adapter.must_compute(asked) is computes
    assert adapter.promise_nothing(impl, asked, 32) is computes
    # A resumed request without a load spec ends the engine: LMCache asserts that it has one.
    empty = SimpleNamespace(vllm_cached_tokens=32, lmcache_cached_tokens=0, can_load=False)
    assert impl.load_specs == ({"r": empty} if computes else {})


def test_a_load_needs_no_attention_metadata() -> None:
    assert adapter.loads_without_attention_metadata()
