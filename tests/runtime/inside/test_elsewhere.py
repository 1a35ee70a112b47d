"""On a host without an HPU, the patched lines do nothing and import nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import torch
from lmcache.gaudi import adapter, allocator, device, guards


def test_importing_the_runtime_imports_neither_torch_nor_habana() -> None:
    program = (
        "import sys, lmcache.gaudi, lmcache.gaudi.device, lmcache.gaudi.adapter, lmcache.gaudi.guards; "
        "assert not lmcache.gaudi.device.load_habana(); "
        "assert not {'torch', 'numpy', 'habana_frameworks'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_is_found() -> None:
    assert not device.load_habana()
    assert not device.is_available()


def test_other_devices_keep_their_index() -> None:
    assert device.broadcast_device("cuda", 3) == "cuda:3"


def test_the_memory_pool_is_lmcaches_own() -> None:
    assert allocator.memory_pool(SimpleNamespace(), dict) is dict


def test_the_adapter_is_left_alone() -> None:
    resumed = SimpleNamespace(request_id="r", num_output_tokens=1, skip_reading_prefix_cache=True)
    assert not adapter.promise_nothing(SimpleNamespace(), resumed, 0)
    assert not adapter.must_compute(resumed)
    assert not adapter.loads_without_attention_metadata()
    adapter.register_multiprocess(SimpleNamespace(kv_caches={"a": 1}), {})
    adapter.refuse_short_load("r", torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    assert adapter.slot_mapping_device("cuda") == "cuda"
    assert adapter.register_kv_caches(SimpleNamespace()) is False
    guards.refuse_degraded_mode(ValueError("boom"))
