"""Single paths of a patched release, by name: ``paths.py NAME``. A script, since LMCache leaves threads behind."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

logging.disable(logging.WARNING)

import lmcache  # noqa: E402, F401 -- before the runtime: it loads habana_frameworks
from lmcache.gaudi import guards  # noqa: E402
from lmcache.gaudi.device import is_available  # noqa: E402


def adapter() -> Any:
    """Return LMCache's vLLM adapter, imported over a stand-in for vLLM."""
    import standin_vllm

    standin_vllm.install()
    import lmcache.integration.vllm.vllm_v1_adapter as module

    return module


def refusal(call: Callable[[], object]) -> str:
    """Return the text of the refusal of ``call``; empty if it is not refused."""
    try:
        call()
    except guards.GaudiError as error:
        return str(error)
    return ""


def resumed_requests_of_an_old_vllm() -> None:
    """Check another device's scheduler with a vLLM whose CachedRequestData has resumed_from_preemption (to 0.11.0)."""
    assert not is_available()
    module = adapter()
    scheduler = object.__new__(module.LMCacheConnectorV1Impl)
    tracker = module.RequestTracker(req_id="r", prompt_len=8, token_ids=list(range(8)), allocated_block_ids=[0, 1])
    request = SimpleNamespace(request_id="r", all_token_ids=list(range(12)), num_computed_tokens=8)
    scheduler.__dict__.update(
        kv_role="kv_both",
        force_skip_save=False,
        _request_trackers={"r": tracker},
        _unfinished_requests={"r": request},
        load_specs={},
        _block_size=4,
        _lmcache_chunk_size=4,
        _discard_partial_chunks=True,
        _save_decode_cache=True,
    )
    cached = SimpleNamespace(req_ids=["r"], new_block_ids=[([2],)], resumed_from_preemption=[False])
    step = SimpleNamespace(
        finished_req_ids=[], scheduled_new_reqs=[], scheduled_cached_reqs=cached, num_scheduled_tokens={"r": 4}
    )
    scheduler.build_connector_meta(step)
    assert tracker.token_ids == list(range(12))
    assert tracker.allocated_block_ids == [0, 1, 2]


def resumed_requests_leave_no_load_spec() -> None:
    """Check that the scheduler's record of a lookup is removed when the request runs again."""
    module = adapter()
    scheduler = object.__new__(module.LMCacheConnectorV1Impl)
    tracker = module.RequestTracker(req_id="r", prompt_len=8, token_ids=list(range(8)), allocated_block_ids=[0, 1])
    request = SimpleNamespace(request_id="r", all_token_ids=list(range(12)), num_computed_tokens=0)
    scheduler.__dict__.update(
        kv_role="kv_both",
        force_skip_save=False,
        _request_trackers={"r": tracker},
        _unfinished_requests={"r": request},
        load_specs={"r": object(), "waiting": object()},
        _block_size=4,
        _lmcache_chunk_size=4,
        _discard_partial_chunks=True,
        _save_decode_cache=True,
    )
    cached = SimpleNamespace(req_ids=["r"], new_block_ids=[([2, 3, 4],)], resumed_req_ids={"r"})
    step = SimpleNamespace(
        finished_req_ids=[], scheduled_new_reqs=[], scheduled_cached_reqs=cached, num_scheduled_tokens={"r": 12}
    )
    scheduler.build_connector_meta(step)
    assert tracker.allocated_block_ids == [2, 3, 4]
    assert list(scheduler.load_specs) == ["waiting"]


def synchronize_of_another_device() -> None:
    """Check that a device other than an HPU gets upstream's call: synchronize of its torch module, with the device."""
    from lmcache.v1 import platform

    seen = []
    torch.elsewhere = SimpleNamespace(synchronize=seen.append)  # type: ignore[attr-defined]
    platform._resolve_device_spec = lambda _: SimpleNamespace(torch_module_name="elsewhere")
    device = SimpleNamespace(type="elsewhere", index=3)
    platform.synchronize_device(device)
    assert seen == [device]


def synchronize_of_the_hpu() -> None:
    """Check that torch.hpu.synchronize gets no device; with one it raises, on the emulated HPU as on the real one."""
    from lmcache.v1 import platform

    assert is_available()
    platform.synchronize_device(torch.device("hpu"))


def telemetry_names_the_hpu() -> None:
    from lmcache.usage_telemetry import env_probe

    assert is_available()
    count, name, _ = env_probe._get_gpu_info()
    assert count >= 1
    assert isinstance(name, str)
    assert name


def pd_is_refused() -> None:
    config = SimpleNamespace(enable_pd=True, pd_buffer_device="cpu")
    words = refusal(lambda: guards.refuse_config(config, "VLLM"))
    assert "0.3.14 and later take pd_buffer_device: cpu" in words, words


def pd_on_the_host_is_not_refused() -> None:
    guards.refuse_config(SimpleNamespace(enable_pd=True, pd_buffer_device="cpu"), "VLLM")


def weka_is_refused() -> None:
    """Check the setting as this release itself reads it; releases after 0.3.11 have none."""
    from lmcache.gaudi.connector import create_connector
    from lmcache.v1.config import LMCacheEngineConfig

    config = LMCacheEngineConfig.from_defaults(weka_path="/mnt/weka")
    words = refusal(lambda: create_connector(config, engine_metadata(), "VLLM"))
    assert "weka_path: GPUDirect Storage" in words, words


def pushed_chunks_are_loaded_and_removed() -> None:
    """Check the decoder of disaggregated serving: chunks are in PDBackend's buffer, which has no room besides them.

    Nobody else removes them, and a prefiller waits until they are. LMCache's backend gives them without a reference.
    """
    import tempfile
    import threading
    from pathlib import Path

    from lmcache.v1.storage_backend.pd_backend import PDBackend
    from stores import TOKENS, Store

    for ended in (False, True):
        store = Store(Path(tempfile.mkdtemp()), "memory", max_local_cpu_size=TOKENS * 2 * 3 * 16 * 2 / (1 << 30))
        engine, manager = store.engine, store.engine.storage_manager
        pushed: Any = object.__new__(PDBackend)
        pushed.data, pushed.data_lock = dict(store.backend.hot_cache), threading.Lock()
        pushed.pd_config = SimpleNamespace(role="receiver")
        for name in ("touch_cache", "batched_unpin", "unpin"):
            setattr(pushed, name, lambda *_, **__: None)
        store.backend.hot_cache.clear()  # the references are PDBackend's now
        engine.remove_after_retrieve = engine.config.enable_pd = True
        manager.storage_backends = type(manager.storage_backends)({"PDBackend": pushed})
        assert len(pushed.data) == 4 and manager.allocate(*_whole(engine), busy_loop=False) is None
        assert store.lookup() == TOKENS, "there is no room, and none is needed"
        if ended:  # before its load
            engine.lookup_unpin("r")
            assert all(one.is_valid() for one in pushed.data.values()), "freed, and still listed"
            assert store.lookup("r") == TOKENS
        assert store.load(TOKENS) == TOKENS
        assert not pushed.data, "the buffer is full for ever"
        assert manager.allocate(*_whole(engine), busy_loop=False) is not None


def _whole(engine: Any) -> tuple[Any, Any]:
    from lmcache.gaudi import compat

    return compat.allocation(*compat.object_shapes(engine.metadata, compat.chunk_size(engine.config, engine.metadata)))


def numa_node_of_a_rank() -> None:
    """Check that LMCache's allocator asks for the NUMA node of the rank, not of device 0."""
    from lmcache.gaudi.connector import create_connector
    from lmcache.v1.config import LMCacheEngineConfig
    from lmcache.v1.system_detection import NUMADetector

    config = LMCacheEngineConfig.from_defaults(
        numa_mode="manual", extra_config={"gpu_to_numa_mapping": {rank: rank // 2 for rank in range(4)}}
    )
    nodes = []
    for rank in (3, 1):
        metadata = SimpleNamespace(worker_id=rank, local_worker_id=rank, kv_shape=(1, 2, 256, 1, 8))
        create_connector(config, metadata, "VLLM")
        mapping = NUMADetector.get_numa_mapping(config)
        assert mapping is not None
        nodes.append(mapping.gpu_to_numa_mapping[0])  # the current device of a Gaudi process
    assert nodes == [1, 0]
    metadata = SimpleNamespace(worker_id=4, local_worker_id=4, kv_shape=(1, 2, 256, 1, 8))
    words = refusal(lambda: create_connector(config, metadata, "VLLM"))
    assert "no entry for local rank 4" in words, words


def caches_of(rows: list[tuple[int, ...]], device: str) -> Any:
    import numpy as np
    from support import make_caches

    return make_caches(
        "blocks", torch.bfloat16, blocks=8, block_size=16, rows=rows, rng=np.random.default_rng(0), device=device
    )


def engine_metadata() -> Any:
    """Return LMCache's metadata of one rank, three layers and chunks of 64 tokens."""
    import dataclasses

    try:
        from lmcache.v1.metadata import LMCacheMetadata
    except ModuleNotFoundError:  # before 0.3.13
        from lmcache.config import LMCacheEngineMetadata as LMCacheMetadata

    values = {"model_name": "m", "world_size": 1, "local_world_size": 1, "worker_id": 0, "local_worker_id": 0}
    values |= {"fmt": "vllm", "kv_dtype": torch.bfloat16, "kv_shape": (3, 2, 64, 2, 8), "chunk_size": 64}
    known = {field.name for field in dataclasses.fields(LMCacheMetadata)}
    return LMCacheMetadata(**{name: value for name, value in values.items() if name in known})


def registration_refuses_what_would_answer_wrongly() -> None:
    """Check that the release's own adapter asks the guards, whichever way vLLM hands its caches over."""
    from unittest.mock import MagicMock

    from lmcache.gaudi.connector import create_connector
    from lmcache.v1.config import LMCacheEngineConfig

    module = adapter()
    given = caches_of([(2, 8)] * 3, "hpu").given
    layers = {f"layer.{number}": entry for number, entry in enumerate(given)}
    chunk = 64 * 3 * 2 * 2 * 8 * 2  # bytes

    def register(way: str, longest: int, **settings: bool) -> str:
        """Return the refusal of an adapter whose pool holds eight chunks of 64 tokens."""
        config = LMCacheEngineConfig.from_defaults(chunk_size=64, max_local_cpu_size=8 * chunk / (1 << 30))
        connector = create_connector(config, engine_metadata(), "VLLM")
        engine = SimpleNamespace(gpu_connector=connector, post_init=lambda **_: None)
        kind = type("Impl", (module.LMCacheConnectorV1Impl,), {"lmcache_engine": engine})
        side = object.__new__(kind)
        side.__dict__.update(
            kv_caches={},
            async_loading=False,
            _manager=MagicMock(),
            _vllm_config=SimpleNamespace(
                model_config=SimpleNamespace(max_model_len=longest, enable_sleep_mode=False),
                parallel_config=SimpleNamespace(world_size=1),
            ),
        )
        off = {"use_contiguous_pa": False, "defrag": False, "unified_attn": False}
        _vllm_gaudi(SimpleNamespace(**off | settings))
        context = SimpleNamespace(
            no_compile_layers={name: SimpleNamespace(kv_cache=[entry]) for name, entry in layers.items()},
            virtual_engine=0,
        )
        calls = {
            "at start": lambda: side.register_kv_caches(layers),
            "with the first request": lambda: side._init_kv_caches_from_forward_context(context),
        }
        return refusal(calls[way])

    ways = ["with the first request"]
    if hasattr(module.LMCacheConnectorV1Impl, "register_kv_caches"):
        ways.append("at start")
    for way in ways:
        assert register(way, 8 * 64) == "", way
        told = register(way, 9 * 64)
        assert "holds 8 chunks of 64 tokens" in told and "or --max-model-len to 512 or less" in told, f"{way}: {told}"
        for setting, words in (
            ("use_contiguous_pa", "contiguous paged attention"),  # vllm-gaudi before v0.24.0
            ("defrag", "online defragmentation"),
            ("unified_attn", "unified attention"),
        ):
            told = register(way, 8 * 64, **{setting: True})
            assert words in told, f"{way}, {setting}: {told}"


def _vllm_gaudi(settings: Any) -> None:
    """Put a vllm-gaudi before v0.24.0 into sys.modules: its prefills read the first blocks of the cache."""
    cache = type("VLLMKVCache", (), {"fetch_from_cache": lambda self, cache, blocks: cache[: blocks.size(0)]})
    sys.modules["vllm_gaudi.extension.runtime"] = SimpleNamespace(get_config=lambda: settings)  # type: ignore[assignment]
    sys.modules["vllm_gaudi.extension.utils"] = SimpleNamespace(VLLMKVCache=cache)  # type: ignore[assignment]


def layer_groups_are_lmcaches_own() -> None:
    """Check that every public reader of the manager answers, not only the four known to be used."""
    from lmcache.gaudi import compat
    from lmcache.gaudi.layout import normalise
    from lmcache.v1.kv_layer_groups import KVLayerGroupsManager

    caches = caches_of([(2, 8), (4, 8), (2, 8)], "cpu")
    metadata = engine_metadata()
    compat.reconcile(metadata, normalise(caches.given, bitcast=True))
    manager = metadata.kv_layer_groups_manager
    assert isinstance(manager, KVLayerGroupsManager), type(manager)
    assert [tuple(shape) for shape in metadata.get_shapes(64)] == [(2, 2, 64, 16), (2, 1, 64, 32)]
    if hasattr(metadata, "get_num_groups"):  # from 0.3.15 on
        assert metadata.get_num_groups() == 2
    assert len(manager.kv_layer_groups) == 2
    arguments = {"layer_idx": 1, "layer_name": "1", "kernel_group_idx": 1, "group_idx": 1, "num_tokens": 64}
    for name in vars(KVLayerGroupsManager):
        member = getattr(manager, name)
        if name.startswith("_") or not callable(member):
            continue
        wanted = inspect.signature(member).parameters
        if set(wanted) <= set(arguments):
            member(**{each: arguments[each] for each in wanted})


def main(name: str) -> int:
    try:
        globals()[name]()
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{name}: done", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
