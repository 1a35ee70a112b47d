"""Faults in what the patched LMCache refuses, declines to promise, and includes in its keys."""

from __future__ import annotations

from tests.smoke.mutant import RUNTIME, Mutant, each

_MUTANTS = (
    # Engines that move blocks, or read other blocks.
    Mutant(
        "contiguous paged attention is not refused",
        f"{RUNTIME}/plugin.py",
        '    if _is_on(settings, "use_contiguous_pa") and',
        '    if _is_on(settings, "contiguous_pa") and',
    ),
    Mutant(
        "contiguous paged attention is refused where prefills read by block",
        f"{RUNTIME}/plugin.py",
        '    if "_fetch_by_id" not in _words(fetch):',
        '    if "_fetch_by_id" in _words(fetch):',
    ),
    Mutant(
        "attention without MLA speaks for MLA, too",
        f"{RUNTIME}/plugin.py",
        "_functions(users[latent])",
        "_functions(users[False])",
    ),
    Mutant(
        "unified attention is not refused",
        f"{RUNTIME}/plugin.py",
        '    if _is_on(settings, "unified_attn"):',
        '    if _is_on(settings, "unified_attention"):',
    ),
    Mutant(
        "online defragmentation is not refused",
        f"{RUNTIME}/plugin.py",
        '    if _is_on(settings, "defrag"):',
        '    if _is_on(settings, "online_defrag"):',
    ),
    Mutant(
        "an engine that sleeps is not refused",
        f"{RUNTIME}/plugin.py",
        '"enable_sleep_mode", False)',
        '"sleep_mode", False)',
    ),
    Mutant(
        "a model with ALiBi is not refused",
        f"{RUNTIME}/plugin.py",
        "    if runtime is not None and _has_alibi(vllm_config):",
        "    if runtime is None and _has_alibi(vllm_config):",
    ),
    Mutant(
        "the multiprocess worker takes any engine",
        f"{RUNTIME}/adapter.py",
        "    refuse_engine(list(kv_caches.values()), current() if current is not None else None)",
        "    list(kv_caches.values())",
    ),
    Mutant(
        "the multiprocess worker takes the caches of a second model",
        f"{RUNTIME}/adapter.py",
        "    if adapter.kv_caches:",
        "    if adapter.kv_caches is None:",
    ),
    # Settings.
    Mutant(
        "lookups that bypass the workers are not refused",
        f"{RUNTIME}/guards.py",
        '("enable_scheduler_bypass_lookup", "external_lookup_client")',
        '("external_lookup_client",)',
    ),
    Mutant(
        "lookups in another service are not refused",
        f"{RUNTIME}/guards.py",
        '("enable_scheduler_bypass_lookup", "external_lookup_client")',
        '("enable_scheduler_bypass_lookup",)',
    ),
    Mutant(
        "asynchronous loading of disaggregated serving is not refused",
        f"{RUNTIME}/guards.py",
        'value("enable_pd") and value("enable_async_loading")',
        'value("enable_pd") and value("async_loading")',
    ),
    Mutant(
        "lookups by some of the ranks that load are not refused",
        f"{RUNTIME}/guards.py",
        'loading = {0} if getattr(metadata, "use_mla", False) else',
        "loading = {0} if metadata else",
    ),
    Mutant(
        "with MLA every rank has to answer lookups",
        f"{RUNTIME}/guards.py",
        'loading = {0} if getattr(metadata, "use_mla", False) else',
        "loading = {0} if metadata is None else",
    ),
    Mutant(
        "layerwise transfer is not refused",
        f"{RUNTIME}/guards.py",
        '    if value("use_layerwise"):',
        '    if value("layerwise"):',
    ),
    Mutant(
        "CacheGen is not refused",
        f"{RUNTIME}/guards.py",
        'not in (None, "naive"):',
        'not in (None, "naive", "cachegen"):',
    ),
    Mutant(
        "NIXL's storage in device memory is not refused",
        f"{RUNTIME}/guards.py",
        'extra.get("enable_nixl_storage") and',
        'extra.get("nixl_storage") and',
    ),
    Mutant(
        "layers of two kinds are taken to disk",
        f"{RUNTIME}/guards.py",
        "    if kinds > 1 and",
        "    if kinds > 2 and",
    ),
    Mutant(
        "LMCache goes on without a cache after an error",
        f"{RUNTIME}/guards.py",
        '        raise GaudiError(f"LMCache failed to initialise on Gaudi: {error}") from error',
        "        return",
    ),
    # The pool.
    Mutant(
        "a pool that is one chunk short is taken",
        f"{RUNTIME}/pool.py",
        "    if fitting >= needed:",
        "    if fitting + 1 >= needed:",
    ),
    Mutant(
        "the tail of the longest prompt is not counted",
        f"{RUNTIME}/pool.py",
        "    needed = longest // chunk + bool(",
        "    needed = longest // chunk + 0 * bool(",
    ),
    Mutant(
        "the allocator's alignment is not counted",
        f"{RUNTIME}/pool.py",
        "math.ceil(size / alignment) * alignment",
        "size",
    ),
    Mutant(
        "the advised size is too small",
        f"{RUNTIME}/pool.py",
        "math.ceil(size / _GB * 100) / 100",
        "int(size / _GB * 100) / 100",
    ),
    # Requests.
    Mutant(
        "a preempted request may resume with a hit",
        f"{RUNTIME}/adapter.py",
        "    if request.num_output_tokens > 0:\n        return True",
        "    if request.num_output_tokens > 1:\n        return True",
    ),
    Mutant(
        "a request that reads no prefix cache is loaded for",
        f"{RUNTIME}/adapter.py",
        "        return bool(skips)",
        "        return False",
    ),
    Mutant(
        "log probabilities of the prompt come from a hit",
        f"{RUNTIME}/adapter.py",
        'getattr(sampling, "prompt_logprobs", None) is not None',
        'bool(getattr(sampling, "prompt_logprobs", None))',
    ),
    Mutant(
        "a resumed request has no load spec, which ends the engine",
        f"{RUNTIME}/adapter.py",
        "    adapter.load_specs[request.request_id] = LoadSpec(",
        "    LoadSpec(",
    ),
    Mutant(
        "all requests of a step count as resumed where one is",
        f"{RUNTIME}/adapter.py",
        "        return request_id in cached_requests.resumed_req_ids",
        "        return bool(cached_requests.resumed_req_ids)",
    ),
    Mutant(
        "within a MultiConnector nothing is loaded",
        f"{RUNTIME}/adapter.py",
        '    tokens as computed.\n    """\n    return is_available()',
        '    tokens as computed.\n    """\n    return not is_available()',
    ),
    Mutant(
        "a short load is taken for whole if as many tokens came",
        f"{RUNTIME}/adapter.py",
        "    missing = int((expected.cpu() & ~retrieved.cpu()).sum())",
        "    missing = int(expected.sum()) - int(retrieved.sum())",
    ),
    Mutant(
        "slot mappings go to the device",
        f"{RUNTIME}/adapter.py",
        '    return torch.device("cpu") if is_available() else device',
        '    return device if is_available() else torch.device("cpu")',
    ),
    # Identities.
    Mutant(
        "an adapter is known by its number",
        f"{RUNTIME}/identity.py",
        'f"{adapter.lora_name}\\0{adapter.lora_path}"',
        "str(adapter.lora_int_id)",
    ),
    Mutant(
        "an adapter is known by its name alone",
        f"{RUNTIME}/identity.py",
        'f"{adapter.lora_name}\\0{adapter.lora_path}"',
        "str(adapter.lora_name)",
    ),
    Mutant(
        "all salts are alike",
        f"{RUNTIME}/identity.py",
        '        identity["salt"] = str(given)',
        '        identity["salt"] = "salted"',
    ),
    Mutant(
        "a salt may spell an adapter",
        f"{RUNTIME}/identity.py",
        'f"{name}={len(value)}:{value};"',
        "value",
    ),
    Mutant(
        "in multiprocess mode adapters share their keys",
        f"{RUNTIME}/identity.py",
        '    if plain and set(identity) <= {"salt"}:',
        "    if plain:",
    ),
    Mutant(
        "a client names its own identity",
        f"{RUNTIME}/identity.py",
        "(configs or {}).items() if name != _TAG}",
        "(configs or {}).items()}",
    ),
)

#: Level kernels tests all these rules in one quick part.
GUARD_MUTANTS = each(_MUTANTS, cases="guards")
