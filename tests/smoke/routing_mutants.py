"""Faults of the lines that lead LMCache to its patched parts: a hunk of the series is undone, or bent.

In LMCache 0.5.6; those of 0.3.9 are in ``old_routing_mutants``.
"""

from __future__ import annotations

from tests.smoke.mutant import Mutant, each

_ADAPTER = "lmcache/integration/vllm/vllm_v1_adapter.py"
_ENGINE = "lmcache/v1/cache_engine.py"
_MULTIPROCESS = "lmcache/integration/vllm/vllm_multi_process_adapter.py"
_TRANSFER = "lmcache/v1/multiprocess/transfer_context/worker_transfer.py"
_CONNECTOR = "lmcache/integration/vllm/lmcache_mp_connector.py"
_MANAGER = "lmcache/v1/manager.py"
_MOONCAKE = "lmcache/v1/lookup_client/mooncake_lookup_client.py"

_ROUTES = (
    Mutant(
        "the platform waits with an argument that torch.hpu does not take",
        "lmcache/v1/platform/__init__.py",
        '    if device.type == "hpu":',
        '    if device.type == "xpu":',
    ),
    Mutant(
        "the device's own wait does not wait",
        "lmcache/v1/platform/devices/hpu/__init__.py",
        "        self._get_torch_module().synchronize()",
        "        self._get_torch_module().is_available()",
    ),
    Mutant(
        "usage statistics ask PyTorch for the device",
        "lmcache/usage_telemetry/env_probe.py",
        "    if is_available():\n        return describe_device()",
        "    if not is_available():\n        return describe_device()",
    ),
    Mutant(
        "an engine whose parts cannot be made goes on without a cache",
        _MANAGER,
        "        except Exception as e:\n            refuse_degraded_mode(e)",
        "        except Exception as e:",
    ),
    Mutant(
        "an engine that cannot be finished goes on without a cache",
        _MANAGER,
        '        """\n        refuse_degraded_mode(e)',
        '        """',
    ),
    Mutant(
        "Mooncake's lookups leave the identity out",
        _MOONCAKE,
        "            token_ids, request_configs=request_configs",
        "            token_ids",
    ),
)

_MULTIPROCESS_ROUTES = (
    Mutant(
        "a request whose load failed is looked up again",
        _MULTIPROCESS,
        "@promise_once\n",
        "",
    ),
    Mutant(
        "failed loads are not withheld",
        _MULTIPROCESS,
        "@withhold_failed_loads\n",
        "",
    ),
    Mutant(
        "the worker of multiprocess mode registers whatever it is given",
        _MULTIPROCESS,
        "        gaudi.register_multiprocess(self, kv_caches)\n",
        "",
    ),
    Mutant(
        "transfers run in a thread of their own",
        _TRANSFER,
        "    if is_available():\n        return False",
        "    if not is_available():\n        return False",
    ),
    Mutant(
        "chunks are stored by LMCache's own transfer",
        _TRANSFER,
        "gathering(gather_paged_kv_to_cpu)(",
        "gather_paged_kv_to_cpu(",
    ),
    Mutant(
        "chunks are loaded by LMCache's own transfer",
        _TRANSFER,
        "scattering(scatter_cpu_to_paged_kv)(",
        "scatter_cpu_to_paged_kv(",
    ),
    Mutant(
        "a short answer of the server counts as whole",
        _TRANSFER,
        "        src_buffers = whole_answer(src_buffers, block_ids, blocks_in_chunk)\n",
        "",
    ),
)

_ENGINE_ROUTES = (
    Mutant(
        "promises are not kept",
        _ENGINE,
        "@keep_promises\n",
        "",
        cases="memory",
    ),
    Mutant(
        "what is broadcast goes to a device with a number",
        _ENGINE,
        "broadcast_device(torch_device_type, self.metadata.worker_id)",
        'f"{torch_device_type}:{self.metadata.worker_id}"',
        cases="ranks",
    ),
    Mutant(
        "what is received goes to a device with a number",
        _ENGINE,
        "broadcast_device(torch_device_type, local_rank)",
        'f"{torch_device_type}:{local_rank}"',
        cases="ranks",
    ),
    Mutant(
        "one rank broadcasts to itself",
        _ENGINE,
        '"has_no_peers", False)',
        '"has_peers", False)',
        cases="memory",
    ),
)

_VLLM_ROUTES = (
    Mutant(
        "slot mappings are made on the device",
        _ADAPTER,
        "gaudi.slot_mapping_device(vllm_config.device_config.device)",
        "vllm_config.device_config.device",
        cases="multi-connector",
    ),
    Mutant(
        "the connector is not given the caches of a forward context",
        _ADAPTER,
        "                ]\n        gaudi.register_kv_caches(self)\n",
        "                ]\n",
        cases="multi-connector",
    ),
    Mutant(
        "the connector is not given the caches at the start",
        _ADAPTER,
        "        gaudi.register_kv_caches(self)\n        self._manager.post_init()",
        "        self._manager.post_init()",
        cases="multi-connector",
    ),
    Mutant(
        "nothing is loaded without attention metadata",
        _ADAPTER,
        "attn_metadata is None and not gaudi.loads_without_attention_metadata()",
        "attn_metadata is None",
        cases="multi-connector",
    ),
    Mutant(
        "the engine goes on after a short load",
        _ADAPTER,
        "gaudi.refuse_short_load(",
        "print(",
        cases="failed-load",
    ),
    Mutant(
        "a request that must be computed is promised a hit",
        _ADAPTER,
        "        if gaudi.promise_nothing(self, request, num_computed_tokens):\n            return 0\n",
        "",
        cases="identities",
    ),
    Mutant(
        "lookups do not know whose the KV is",
        _ADAPTER,
        "            request_configs = gaudi.tag_identity(\n"
        "                request, extract_request_configs(request.sampling_params)\n            )",
        "            request_configs = extract_request_configs(request.sampling_params)",
        cases="identities",
    ),
    Mutant(
        "stores do not know whose the KV is",
        _ADAPTER,
        "            request_tracker.request_configs = gaudi.tag_identity(\n"
        "                self._unfinished_requests[request.req_id],\n"
        "                request_tracker.request_configs,\n            )\n",
        "",
        cases="identities",
    ),
    Mutant(
        "an id that is used again is forgotten in the step that ends it",
        _ADAPTER,
        "gaudi.ended(scheduler_output)",
        "scheduler_output.finished_req_ids",
        cases="identities",
    ),
    Mutant(
        "in multiprocess mode the salt is the client's alone",
        "lmcache/integration/vllm/lmcache_mp_metadata.py",
        "self.cache_salt: str = salt(request)",
        'self.cache_salt: str = request.cache_salt or ""',
        cases="identities",
    ),
    Mutant(
        "multiprocess mode looks a request up that must be computed",
        _CONNECTOR,
        "        if gaudi.must_compute(request):\n            return 0, False\n",
        "",
        cases="identities",
    ),
    Mutant(
        "multiprocess mode looks a request up as it comes that must be computed",
        _CONNECTOR,
        "        if gaudi.must_compute(request):\n            return\n",
        "",
        cases="identities",
    ),
)


ROUTING_MUTANTS = (
    *each(_ROUTES, cases="routes"),
    *each(_MULTIPROCESS_ROUTES, cases="multiprocess"),
    *each(_ENGINE_ROUTES, level="engine"),
    *each(_VLLM_ROUTES, level="connector"),
)
