"""Keys of a patched release for requests that differ only in adapter, salt, image or embeddings.

``identities.py [in-process|multiprocess]`` runs the scheduler's side of the real adapter over a stand-in for vLLM. It
prints ``N identities`` if lookup, load and store of each agree and no two are alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import sys
import traceback
from types import SimpleNamespace
from typing import Any

import standin_vllm
import torch

standin_vllm.install()

from lmcache.utils import CacheEngineKey  # noqa: E402

PROMPT = list(range(100, 112))
BASE_SALT = "tenant-1"


def adapter(name: str, path: str = "/adapters/a") -> SimpleNamespace:
    return SimpleNamespace(lora_name=name, lora_path=path, lora_int_id=1)


def image(identifier: str) -> dict[str, Any]:
    place = SimpleNamespace(offset=2, length=6)
    return {"mm_features": [SimpleNamespace(identifier=identifier, mm_position=place)]}


def alike_in_16_bits() -> tuple[str, str]:
    """Return two images whose hexadecimal identifiers end in the same 16 bits."""
    return hashlib.sha256(b"one").hexdigest()[:-4] + "beef", hashlib.sha256(b"two").hexdigest()[:-4] + "beef"


def requests() -> dict[str, dict[str, Any]]:
    one, two = alike_in_16_bits()
    return {
        "plain": {},
        "adapter a": {"lora_request": adapter("a")},
        "adapter b": {"lora_request": adapter("b")},
        "adapter a elsewhere": {"lora_request": adapter("a", "/adapters/other")},
        "salt 1": {"cache_salt": BASE_SALT},
        "salt 2": {"cache_salt": "tenant-2"},
        "a salt that LMCache refuses": {"cache_salt": "a/b@c" * 50},
        "adapter a, salt 1": {"lora_request": adapter("a"), "cache_salt": BASE_SALT},
        "image 1": image(one),
        "image 2": image(two),
        "embeddings 1": {"prompt_embeds": torch.zeros(12, 4, dtype=torch.bfloat16)},
        "embeddings 2": {"prompt_embeds": torch.ones(12, 4, dtype=torch.bfloat16)},
    }


def request(number: int, what: dict[str, Any], extra: dict[str, Any] | None = None) -> Any:
    sampling = SimpleNamespace(extra_args={"kv_transfer_params": extra} if extra else None)
    values = {
        "request_id": f"r{number}",
        "req_id": f"r{number}",
        "prompt_token_ids": list(PROMPT),
        "all_token_ids": list(PROMPT),
        "num_tokens": len(PROMPT),
        "num_prompt_tokens": len(PROMPT),
        "block_hashes": [],
        "num_computed_tokens": 0,
        "sampling_params": sampling,
        "block_ids": ([0, 1, 2],),
        "lora_request": None,
        "cache_salt": None,
        "mm_features": [],
        "priority": 0,
    }
    return SimpleNamespace(**(values | what))


class Lookups:
    """A lookup client that finds nothing and records its requests."""

    def __init__(self, nothing: int) -> None:
        self.nothing = nothing
        self.last: Any = None

    def lookup(self, token_ids: Any, lookup_id: str, request_configs: Any = None, **others: Any) -> int:
        self.last = (list(token_ids), request_configs)
        return 0

    def lookup_cache(self, lookup_id: str) -> int:
        # The answer for "not asked yet" differs: 0 in 0.3.10, -1 later.
        return self.nothing

    def clear_lookup_status(self, lookup_id: str) -> None:
        pass


def scheduler(module: Any) -> Any:
    made = object.__new__(module.LMCacheConnectorV1Impl)
    names = module.LMCacheConnectorV1Impl.get_num_new_matched_tokens.__code__.co_varnames
    client = Lookups(0 if "cached_num_hit_toks" in names else -1)
    config = SimpleNamespace(priority_limit=None, min_retrieve_tokens=0, save_decode_cache=False, use_layerwise=False)
    for name, value in (("lookup_client", client), ("config", config)):
        if not isinstance(getattr(module.LMCacheConnectorV1Impl, name, None), property):
            made.__dict__[name] = value
    made.__dict__.update(
        kv_role="kv_both",
        force_skip_save=False,
        _manager=SimpleNamespace(lookup_client=client, config=config, lmcache_engine=None),
        skip_last_n_tokens=0,
        async_loading=False,
        enable_blending=False,
        load_specs={},
        _requests_priority={},
        _lookup_requests_in_step=[],
        _request_trackers={},
        _unfinished_requests={},
        _max_tokens_per_load=0,
        _block_size=4,
        _lmcache_chunk_size=4,
        _discard_partial_chunks=True,
        _save_decode_cache=False,
    )
    return made


def in_process() -> dict[str, Any]:
    module = importlib.import_module("lmcache.integration.vllm.vllm_v1_adapter")
    found = {}
    for number, (name, what) in enumerate(requests().items()):
        side = scheduler(module)
        one = request(number, what)
        side.get_num_new_matched_tokens(one, 0)
        tokens, configs = side.lookup_client.last
        side.update_state_after_alloc(one, 0)
        new = request(number, what)
        del new.cache_salt  # vLLM's NewRequestData has none
        cached = SimpleNamespace(req_ids=[], new_block_ids=[])
        step = SimpleNamespace(
            finished_req_ids=[],
            scheduled_new_reqs=[new],
            scheduled_cached_reqs=cached,
            num_scheduled_tokens={one.request_id: len(PROMPT)},
        )
        (meta,) = side.build_connector_meta(step).requests
        assert meta.request_configs == configs, f"{name}: looked up as {configs}, stored as {meta.request_configs}"
        assert list(meta.token_ids) == tokens, f"{name}: looked up {tokens}, stored {meta.token_ids}"
        found[name] = (key(configs), tuple(tokens))
    assert found["plain"] == (key(None), tuple(PROMPT)), "a plain request has another key than before"
    stolen = {"lmcache.tag.identity": "stolen", "lmcache.tag.own": "kept"}
    side = scheduler(module)
    side.get_num_new_matched_tokens(request(99, {}, stolen), 0)
    assert side.lookup_client.last[1] == {"lmcache.tag.own": "kept"}, side.lookup_client.last[1]
    for value in ([1], {"a": [1]}):
        side.get_num_new_matched_tokens(request(99, {}, {"lmcache.tag.own": value, "lmcache.skip_save": value}), 0)
        configs = side.lookup_client.last[1]
        assert configs["lmcache.skip_save"] == value
        key(configs)
    return found


def key(configs: Any) -> str:
    """Return a chunk's key as stores see it; it must survive a round trip through text, as remote stores need."""
    values = {
        "fmt": "vllm",
        "model_name": "m",
        "world_size": 1,
        "worker_id": 0,
        "chunk_hash": 7,
        "dtype": torch.bfloat16,
    }
    known = {field.name for field in dataclasses.fields(CacheEngineKey)}
    made = CacheEngineKey(**{k: v for k, v in (values | {"request_configs": configs}).items() if k in known})
    assert CacheEngineKey.from_string(made.to_string()) == made
    hash(made)
    return str(made.to_string())


def multiprocess() -> dict[str, Any]:
    for name in ("lmcache_mp_metadata", "lmcache_mp_connector"):
        try:
            module = importlib.import_module(f"lmcache.integration.vllm.{name}")
        except ModuleNotFoundError:
            continue
        break
    types = importlib.import_module("lmcache.v1.multiprocess.custom_types")
    key_type = getattr(types, "IPCCacheServerKey", None) or types.IPCCacheEngineKey
    found = {}
    for number, (name, what) in enumerate(requests().items()):
        tracker = module.LMCacheMPRequestTracker(request(number, what))
        key_type.from_token_ids("m", 1, 0, PROMPT, 0, 4, cache_salt=tracker.cache_salt)  # accepts the salt
        found[name] = (tracker.cache_salt, tuple(getattr(tracker, "mm_adjusted_prompt_ids", ())))
    assert found["plain"] == ("", ())
    assert found["salt 1"] == (BASE_SALT, ())
    return found


def main(mode: str) -> int:
    try:
        found = in_process() if mode == "in-process" else multiprocess()
        alike = [f"{a} = {b}" for a in found for b in found if a < b and found[a] == found[b]]
        assert not alike, "; ".join(alike)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{len(found)} identities", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
