"""What the patched LMCache refuses or does not promise, because the engine would answer wrongly or stop.

These rules need no engine, so they are checked without vLLM too. Levels connector and inference show that LMCache's
vLLM adapter applies them. Each rule is tried on an allowed and a refused case.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe

_VLLM_ADAPTER = "lmcache.integration.vllm.vllm_v1_adapter"


class _SlicingCache:
    """VLLMKVCache of vllm-gaudi up to v0.21.0: with contiguous paged attention, prefills read the first blocks."""

    def fetch_from_cache(self, cache: Foreign, blocks: Foreign) -> Foreign:
        return cache[: blocks.size(0)]


class _FlaggedCache:
    """VLLMKVCache from v0.24.0 on: reads by block if an attention has set the flag."""

    def fetch_from_cache(self, cache: Foreign, blocks: Foreign) -> Foreign:
        return cache.index_select(0, blocks) if getattr(self, "_fetch_by_id", False) else cache[: blocks.size(0)]


class _Flagging:
    def forward(self) -> None:
        _set_fetch_by_id(self)


class _Other:
    def forward(self) -> None:
        """Set no flag."""


def _set_fetch_by_id(cache: Foreign) -> None:
    cache._fetch_by_id = True


def check_guards(probe: _probe.Probe) -> None:
    """Check all rules."""
    with probe.section("engines that move blocks or read others"):
        _engines(probe)
    with probe.section("settings that have no implementation"):
        _settings(probe)
    with probe.section("lookups that not all ranks answer"):
        _lookups(probe)
    with probe.section("a pool smaller than one prompt"):
        _pools(probe)
    with probe.section("requests for which nothing may be loaded"):
        _requests(probe)
    with probe.section("loads that fall short"):
        _loads(probe)
    with probe.section("identities"):
        _identities(probe)


def _engines(probe: _probe.Probe) -> None:
    pair, latent = (object(), object()), object()
    asleep = SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=True))
    layer = SimpleNamespace(impl=SimpleNamespace(alibi_slopes=(1.0,)))
    alibi = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={"layer": layer}))
    refuse = _probe.load("lmcache.gaudi.plugin").refuse_engine
    contiguous, words = {"use_contiguous_pa": True}, "contiguous paged attention"
    for what, settings, cache, entry, config, refused in (
        ("everything off", {}, _SlicingCache, pair, None, ""),
        ("contiguous paged attention by position", contiguous, _SlicingCache, pair, None, words),
        ("contiguous paged attention by block", contiguous, _FlaggedCache, pair, None, ""),
        ("contiguous paged attention and MLA", contiguous, _FlaggedCache, latent, None, words),
        ("defragmentation", {"defrag": True}, _FlaggedCache, pair, None, "defragmentation"),
        ("unified attention", {"unified_attn": True}, _FlaggedCache, pair, None, "unified attention"),
        ("sleep mode", {}, _FlaggedCache, pair, asleep, "enable_sleep_mode"),
        ("ALiBi", {}, _FlaggedCache, pair, alibi, "ALiBi"),
    ):
        with _vllm_gaudi(settings, cache):
            _expect(probe, what, refused, lambda: refuse([entry], config))  # noqa: B023 - called at once
    register = _probe.load("lmcache.gaudi.adapter").register_multiprocess
    with _vllm_gaudi({"unified_attn": True}, _FlaggedCache):
        worker = SimpleNamespace(kv_caches={})
        _expect(probe, "multiprocess mode", "unified attention", lambda: register(worker, {"layer": pair}))
    taken = SimpleNamespace(kv_caches={"layer": pair})
    _expect(probe, "caches registered once more", "once more", lambda: register(taken, {"layer": pair}))


def _settings(probe: _probe.Probe) -> None:
    refuse = _probe.load("lmcache.gaudi.guards").refuse_config
    for settings, refused in (
        ({}, ""),
        ({"remote_serde": "naive"}, ""),
        ({"enable_pd": False, "pd_buffer_device": "cuda"}, ""),
        ({"enable_scheduler_bypass_lookup": True}, "enable_scheduler_bypass_lookup"),
        ({"external_lookup_client": "mooncakestore://h:1"}, "external_lookup_client"),
        ({"enable_pd": True, "enable_async_loading": True}, "enable_async_loading with enable_pd"),
        ({"enable_async_loading": True}, ""),
        ({"use_layerwise": True}, "use_layerwise"),
        ({"enable_blending": True}, "enable_blending"),
        ({"remote_serde": "cachegen"}, "remote_serde"),
        ({"gds_path": "/mnt"}, "gds_path"),
        ({"enable_p2p": True}, "enable_p2p"),
        ({"enable_pd": True, "pd_buffer_device": "cuda"}, "pd"),
        ({"extra_config": {"enable_nixl_storage": True}, "nixl_buffer_device": "cuda"}, "nixl_buffer_device"),
    ):
        _expect(probe, str(settings), refused, lambda: refuse(SimpleNamespace(**settings), "VLLM"))  # noqa: B023 - called at once
    _expect(probe, "another engine", "SGLANG", lambda: refuse(SimpleNamespace(), "SGLANG"))
    disk = SimpleNamespace(local_disk="file:///mnt/")
    hybrid = _probe.load("lmcache.gaudi.guards").refuse_hybrid_on_disk
    _expect(probe, "layers of two kinds on disk", "local_disk", lambda: hybrid(disk, 2))
    _expect(probe, "layers of one kind on disk", "", lambda: hybrid(disk, 1))
    degraded = _probe.load("lmcache.gaudi.guards").refuse_degraded_mode
    _expect(probe, "an engine without a cache", "failed to initialise", lambda: degraded(ValueError("smoke")))


def _lookups(probe: _probe.Probe) -> None:
    refuse = _probe.load("lmcache.gaudi.guards").refuse_partial_lookups
    for answering, ranks, mla, refused in (
        (None, 2, False, ""),
        ([0, 1], 2, False, ""),
        ([0], 2, True, ""),
        ([0], 2, False, "ranks [1]"),
        ([1], 2, True, "ranks [0]"),
    ):
        config = SimpleNamespace(lookup_server_worker_ids=answering)
        metadata = SimpleNamespace(world_size=ranks, use_mla=mla)
        what = f"{answering} of {ranks} ranks, MLA {mla}"
        _expect(probe, what, refused, lambda: refuse(config, metadata))  # noqa: B023 - called at once


def _pools(probe: _probe.Probe) -> None:
    refuse = _probe.load("lmcache.gaudi.adapter").refuse_small_pool
    chunk, token_bytes = 256, 100_001  # a chunk is not a multiple of the allocator's alignment
    layout = SimpleNamespace(token_bytes=token_bytes)
    aligned = -(-chunk * token_bytes // 4096) * 4096
    for longest, tails, chunks in ((1024, False, 4), (1030, False, 4), (1030, True, 5)):

        def ask(size: float) -> None:
            config = SimpleNamespace(max_local_cpu_size=size, save_unfull_chunk=tails)  # noqa: B023 - called at once
            refuse(config, layout, chunk=chunk, longest=longest, ranks=2)  # noqa: B023 - called at once

        what = f"{longest} tokens, tails {tails}"
        enough, short = (chunks * aligned + 4096) / _probe.GIB, (chunks * aligned - 4096) / _probe.GIB
        _expect(probe, f"{what}, enough", "", lambda: ask(enough))  # noqa: B023 - called at once
        text = _expect(probe, f"{what}, one page short", "smaller than one prompt", lambda: ask(short))  # noqa: B023 - called at once
        advised = re.search(r"max_local_cpu_size to ([\d.]+) or more", text)
        if probe.check(advised is not None, f"{what}: no size is advised: {text}") and advised is not None:
            _expect(probe, f"{what}, as advised", "", lambda: ask(float(advised[1])))  # noqa: B023 - called at once


def _requests(probe: _probe.Probe) -> None:
    adapter = _probe.load("lmcache.gaudi.adapter")

    def request(outputs: int = 0, **more: object) -> SimpleNamespace:
        return SimpleNamespace(request_id="smoke", num_output_tokens=outputs, priority=3, **more)

    logprobs = SimpleNamespace(prompt_logprobs=0)
    for what, asked, computes in (
        ("a new request", request(skip_reading_prefix_cache=False), False),
        ("a new request of an older vLLM", request(sampling_params=SimpleNamespace(prompt_logprobs=None)), False),
        ("a resumed request", request(1, skip_reading_prefix_cache=False), True),
        ("a request that reads no prefix cache", request(skip_reading_prefix_cache=True), True),
        ("log probabilities of the prompt", request(sampling_params=logprobs), True),
        ("a pooled vector", request(pooling_params=object()), True),
    ):
        side = SimpleNamespace(load_specs={}, _requests_priority={})
        with _module(_VLLM_ADAPTER, LoadSpec=SimpleNamespace):
            answered = adapter.promise_nothing(side, asked, 32)
        probe.check(answered is computes, f"{what}: LMCache {'promises nothing' if answered else 'may promise'}")
        empty = SimpleNamespace(vllm_cached_tokens=32, lmcache_cached_tokens=0, can_load=False)
        expected = {"smoke": empty} if computes else {}
        probe.check(side.load_specs == expected, f"{what}: LMCache notes {side.load_specs}, not {expected}")
    for number, name, resumed in ((0, "a", False), (1, "b", True)):
        for cached in (
            SimpleNamespace(resumed_req_ids={"b"}),
            SimpleNamespace(resumed_from_preemption=[False, True]),
        ):
            found = adapter.is_resumed(cached, number, name)
            probe.check(found is resumed, f"request {name} counts as {'resumed' if found else 'not resumed'}")


def _loads(probe: _probe.Probe) -> None:
    torch, adapter = _probe.load("torch"), _probe.load("lmcache.gaudi.adapter")
    expected = torch.ones(64, dtype=torch.bool)
    expected[:16] = False  # vLLM's own
    retrieved = expected.clone()
    _expect(probe, "a whole load", "", lambda: adapter.refuse_short_load("smoke", retrieved, expected))
    retrieved[63], retrieved[0] = False, True  # the same number, but other blocks
    short = "1 of 48 cached tokens"
    _expect(probe, "a short load", short, lambda: adapter.refuse_short_load("smoke", retrieved, expected))
    probe.check(
        adapter.loads_without_attention_metadata(),
        "a load is left out where the forward context has no attention metadata, as within a MultiConnector",
    )
    place = adapter.slot_mapping_device("hpu")
    probe.check(place == torch.device("cpu"), f"slot mappings go to {place}, and indices are computed on the host")


def _identities(probe: _probe.Probe) -> None:
    identity = _probe.load("lmcache.gaudi.identity")

    def request(adapter: str = "", path: str = "/a", salt: str | None = None, **more: object) -> SimpleNamespace:
        lora = SimpleNamespace(lora_name=adapter, lora_path=path, lora_int_id=1) if adapter else None
        return SimpleNamespace(lora_request=lora, cache_salt=salt, **more)

    different = {
        "a plain request": request(),
        "an adapter": request("a"),
        "another adapter": request("b"),
        "an adapter of the same name elsewhere": request("a", "/b"),
        "a salt": request(salt="t1"),
        "another salt": request(salt="t2"),
        "an adapter and a salt": request("a", salt="t1"),
        "a salt that reads like an adapter": request(salt="a\0/a"),
    }
    for place, make in (("the key's tag", identity.tag), ("the salt of multiprocess mode", identity.salt)):
        plain = ({"x": 1},) if make is identity.tag else ()
        made = {what: repr(make(asked, *plain)) for what, asked in different.items()}
        for what, value in made.items():
            alike = [other for other in made if other != what and made[other] == value]
            probe.check(not alike, f"{place}: {what} has the keys of {', '.join(alike)}")
        for what, asked in different.items():
            probe.check(repr(make(asked, *plain)) == made[what], f"{place}: {what} does not find its own again")
    probe.check(identity.tag(request(), None) is None, "a plain request's key has a tag: hosts without HPU have none")
    probe.check(identity.salt(request()) == "", "a plain request has a salt: hosts without HPU have none")
    claimed = identity.tag(request(), {"lmcache.tag.identity": "another's"})
    probe.check(not claimed, f"a client may take another's identity: {claimed}")


def _expect(probe: _probe.Probe, what: str, refused: str, call: Callable[[], object]) -> str:
    """Call, expect LMCache's refusal containing ``refused`` (none if it is empty), and return it."""
    try:
        call()
    except _probe.load("lmcache.gaudi.guards").GaudiError as error:
        text = str(error)
        if refused:
            probe.check(refused in text, f"{what}: refused, but not for {refused!r}: {text}")
        else:
            probe.fail(f"{what}: refused, although it works: {text}")
        return text
    probe.check(not refused, f"{what}: not refused")
    return ""


@contextlib.contextmanager
def _vllm_gaudi(settings: dict[str, bool], cache: type) -> Iterator[None]:
    """Provide, within the block, the parts of vllm-gaudi that LMCache examines."""
    known = {"use_contiguous_pa": False, "defrag": False, "unified_attn": False, **settings}
    with (
        _module("vllm_gaudi.extension.runtime", get_config=lambda: SimpleNamespace(**known)),
        _module("vllm_gaudi.extension.utils", VLLMKVCache=cache),
        _module("vllm_gaudi.attention.backends.hpu_attn", HPUAttentionImpl=_Flagging, HPUMLAImpl=_Other),
    ):
        yield


@contextlib.contextmanager
def _module(name: str, **content: object) -> Iterator[None]:
    """Replace a module by one of this name and content within the block."""
    before = sys.modules.get(name)
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
