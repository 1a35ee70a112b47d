"""Faults of the lines that lead LMCache 0.3.9 to its patched parts; they are in other places than in 0.5.6."""

from __future__ import annotations

from tests.smoke.mutant import Mutant, each

_ADAPTER = "lmcache/integration/vllm/vllm_v1_adapter.py"
_ENGINE = "lmcache/v1/cache_engine.py"
_MOONCAKE = "lmcache/v1/lookup_client/mooncake_lookup_client.py"
_CPU_BACKEND = "lmcache/v1/storage_backend/local_cpu_backend.py"

OLD = "0.3.9"

_ROUTE = Mutant(
    "0.3.9: the Habana software is not loaded",
    "lmcache/__init__.py",
    "load_habana()  # torch.hpu exists only after this",
    "load_habana  # torch.hpu exists only after this",
)

_ENGINE_ROUTES = (
    Mutant("0.3.9: promises are not kept", _ENGINE, "@keep_promises\n", "", cases="memory"),
    Mutant(
        "0.3.9: what is broadcast goes to a CUDA device",
        _ENGINE,
        'broadcast_device("cuda", self.metadata.worker_id)',
        'f"cuda:{self.metadata.worker_id}"',
        cases="ranks",
    ),
    Mutant(
        "0.3.9: what is received goes to a CUDA device",
        _ENGINE,
        'device=broadcast_device("cuda", local_rank)',
        'device=f"cuda:{local_rank}"',
        cases="ranks",
    ),
    Mutant(
        "0.3.9: the number of CUDA devices divides",
        _ENGINE,
        "% max(1, torch.cuda.device_count())",
        "% torch.cuda.device_count()",
        cases="ranks",
    ),
    Mutant(
        "0.3.9: one rank broadcasts to itself", _ENGINE, '"has_no_peers", False)', '"has_peers", False)', cases="memory"
    ),
    Mutant(
        "0.3.9: the pool stays one buffer",
        _CPU_BACKEND,
        "memory_pool(config, MixedMemoryAllocator)(",
        "MixedMemoryAllocator(",
        cases="memory",
    ),
)

_KERNEL_ROUTES = (
    Mutant(
        "0.3.9: Mooncake's lookups leave the identity out",
        _MOONCAKE,
        "            token_ids, request_configs=request_configs",
        "            token_ids",
    ),
    Mutant(
        "0.3.9: images are known by 16 bits",
        "lmcache/integration/vllm/utils.py",
        "= image_tokens(hash_str, end - start)",
        "= hex_hash_to_int16(hash_str)",
    ),
)

_VLLM_ROUTES = (
    Mutant(
        "0.3.9: CUDA devices are counted",
        _ADAPTER,
        "num_gpus = max(1, torch.cuda.device_count())",
        "num_gpus = torch.cuda.device_count()",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the device is set as CUDA's",
        _ADAPTER,
        "    if not is_available():\n        torch.cuda.set_device(local_rank)",
        "    torch.cuda.set_device(local_rank)",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the stock connector is chosen",
        _ADAPTER,
        "    if is_available():\n"
        '        vllm_gpu_connector = create_connector(lmcache_config, metadata, "VLLM")\n    elif',
        "    if",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: slot mappings are made on the device",
        _ADAPTER,
        'gaudi.slot_mapping_device("cuda")',
        '"hpu"',
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the connector is not given the caches of a forward context",
        _ADAPTER,
        "                ]\n        gaudi.register_kv_caches(self)\n",
        "                ]\n",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: nothing is loaded without attention metadata",
        _ADAPTER,
        "attn_metadata is None and not gaudi.loads_without_attention_metadata()",
        "attn_metadata is None",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the slot mapping of a load goes to CUDA",
        _ADAPTER,
        "            slot_mapping = request.slot_mapping.to(self.device)",
        "            slot_mapping = request.slot_mapping.cuda()",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the slot mapping of a store goes to CUDA",
        _ADAPTER,
        "            slot_mapping = slot_mapping.to(self.device)\n\n            skip",
        "            slot_mapping = slot_mapping.cuda()\n\n            skip",
        cases="multi-connector",
    ),
    Mutant(
        "0.3.9: the prefix that vLLM has is written again",
        _ADAPTER,
        "                    vllm_cached_tokens=request.load_spec.vllm_cached_tokens,\n",
        "",
        cases="blocks",
    ),
    Mutant(
        "0.3.9: the engine goes on after a short load",
        _ADAPTER,
        "gaudi.refuse_short_load(",
        "print(",
        cases="failed-load",
    ),
    Mutant(
        "0.3.9: lookups do not know whose the KV is",
        _ADAPTER,
        "        request_configs = gaudi.tag_identity(\n"
        "            request, extract_request_configs(request.sampling_params)\n        )",
        "        request_configs = extract_request_configs(request.sampling_params)",
        cases="identities",
    ),
    Mutant(
        "0.3.9: stores do not know whose the KV is",
        _ADAPTER,
        "            request_tracker.request_configs = gaudi.tag_identity(\n"
        "                self._unfinished_requests[request.req_id],\n"
        "                request_tracker.request_configs,\n            )\n",
        "",
        cases="identities",
    ),
    Mutant(
        "0.3.9: an id that is used again is forgotten in the step that ends it",
        _ADAPTER,
        "gaudi.ended(scheduler_output)",
        "scheduler_output.finished_req_ids",
        cases="identities",
    ),
    Mutant(
        "0.3.9: a request that must be computed is promised a hit",
        _ADAPTER,
        "        if gaudi.promise_nothing(self, request, num_computed_tokens):\n            return 0\n",
        "",
        cases="identities",
    ),
    Mutant(
        "0.3.9: a request that is resumed without an output is promised a hit",
        _ADAPTER,
        "        if is_available() and request.request_id in self._request_trackers:",
        "        if not is_available() and request.request_id in self._request_trackers:",
        cases="early-preemption",
    ),
    Mutant(
        "0.3.9: the tracker of a resumed request keeps its old blocks",
        _ADAPTER,
        "        if is_available() and gaudi.is_resumed(cached_reqs, i, req_id):",
        "        if not is_available() and gaudi.is_resumed(cached_reqs, i, req_id):",
        cases="blocks",
    ),
)


OLD_ROUTING_MUTANTS = (
    *each((_ROUTE,), level="imports", release=OLD),
    *each(_KERNEL_ROUTES, cases="routes", release=OLD),
    *each(_ENGINE_ROUTES, level="engine", release=OLD),
    *each(_VLLM_ROUTES, level="connector", release=OLD),
)
