"""Settings of vllm-gaudi under which KV blocks move, are skipped, or do not hold what LMCache takes them for."""

from __future__ import annotations

from packaging.version import Version

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.environment import is_on
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning

_DEFRAG_FIX = "export VLLM_CONTIGUOUS_PA=false VLLM_DEFRAG=false"


@check(
    "env.defragmentation",
    "blocks that move: VLLM_DEFRAG, VLLM_CONTIGUOUS_PA",
    why="vllm-gaudi's online defragmentation moves KV blocks and tells only itself: LMCache would load into, and store "
    "from, blocks of other requests (the patched LMCache refuses to start)",
    source=sources.vllm_gaudi("vllm_gaudi/extension/features.py") + "; environment.py (_get_prefix)",
    needs=("running",),
)
def defragmentation(case: Case) -> Answer:
    explicit, contiguous = case.environ.get("VLLM_DEFRAG"), case.environ.get("VLLM_CONTIGUOUS_PA")
    if explicit is not None:
        return failure("VLLM_DEFRAG is on", _DEFRAG_FIX) if is_on(explicit) else ok("VLLM_DEFRAG is off")
    plugin = case.version("vllm-gaudi")
    if plugin is not None and plugin.release < (0, 18):
        if is_on(case.environ.get("VLLM_UNIFIED_ATTN")):
            return failure(f"vllm-gaudi {plugin} defragments with VLLM_UNIFIED_ATTN", "unset VLLM_UNIFIED_ATTN")
        return ok(f"vllm-gaudi {plugin} does not defragment without VLLM_UNIFIED_ATTN")
    if plugin is not None and plugin.release < (0, 19):
        return ok(f"vllm-gaudi {plugin} does not defragment unless VLLM_DEFRAG asks for it")
    # use_contiguous_pa is VLLM_CONTIGUOUS_PA, else the opposite of prefix_caching, which is not vLLM's: it follows
    # from VLLM_CONTIGUOUS_PA (environment.py, _get_prefix) unless VLLM_PREFIX_CACHING says otherwise.
    if contiguous is not None:
        on = is_on(contiguous)
        return _defragments(plugin, "VLLM_CONTIGUOUS_PA is on") if on else ok("VLLM_CONTIGUOUS_PA is off")
    prefix = case.environ.get("VLLM_PREFIX_CACHING")
    if prefix is not None and not is_on(prefix):
        return _defragments(plugin, "VLLM_PREFIX_CACHING is off, which turns contiguous paged attention on")
    return ok("neither VLLM_CONTIGUOUS_PA nor VLLM_DEFRAG is set: contiguous paged attention is off")


def _defragments(plugin: Version | None, cause: str) -> Answer:
    if plugin is None:
        return warning(f"{cause}: vllm-gaudi 0.19 and later then defragment", _DEFRAG_FIX)
    return failure(f"{cause}: vllm-gaudi {plugin} then defragments", _DEFRAG_FIX)


@check(
    "env.unified-attention",
    "VLLM_UNIFIED_ATTN",
    why="vllm-gaudi 0.13 to 0.17 then returns before any call of the KV connector: nothing is stored or loaded",
    source=sources.vllm_gaudi("vllm_gaudi/v1/worker/hpu_model_runner.py", "v0.17.1"),
    needs=("running",),
)
def unified_attention(case: Case) -> Answer:
    if not is_on(case.environ.get("VLLM_UNIFIED_ATTN")):
        return ok("off")
    plugin = case.version("vllm-gaudi")
    if plugin is None:
        return unknown("VLLM_UNIFIED_ATTN is on, and the version of vllm-gaudi is not known", "unset VLLM_UNIFIED_ATTN")
    if plugin.release < (0, 18):
        return failure(f"VLLM_UNIFIED_ATTN is on with vllm-gaudi {plugin}", "unset VLLM_UNIFIED_ATTN")
    return ok(f"vllm-gaudi {plugin} no longer knows VLLM_UNIFIED_ATTN")


@check(
    "env.dynamic-kv-quant",
    "VLLM_DYNAMIC_KV_QUANT",
    why="with QUANT_CONFIG, KV blocks carry scales that vllm-gaudi does not hand to the connector: keys would come "
    "back without their values and scales",
    source=sources.vllm_gaudi("vllm_gaudi/v1/worker/hpu_model_runner.py"),
    needs=("running",),
)
def dynamic_kv_quant(case: Case) -> Answer:
    if "VLLM_DYNAMIC_KV_QUANT" not in case.environ:
        return ok("not set")
    if "QUANT_CONFIG" not in case.environ:
        return ok("set, without QUANT_CONFIG: it has no effect on the KV cache")
    if case.arguments is not None and not str(case.arguments.options.get("kv-cache-dtype", "")).startswith("fp8"):
        return ok("set, and without --kv-cache-dtype fp8_inc it has no effect on the KV cache")
    return failure(
        "VLLM_DYNAMIC_KV_QUANT with QUANT_CONFIG", "unset VLLM_DYNAMIC_KV_QUANT; fp8_inc with static scales works"
    )


CHECKS = (defragmentation, unified_attention, dynamic_kv_quant)
