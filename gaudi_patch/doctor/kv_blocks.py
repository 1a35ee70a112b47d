"""Checks of vllm-gaudi settings that move or skip KV blocks, or fill them in a way LMCache does not expect."""

from __future__ import annotations

from packaging.version import Version

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.environment import is_on
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning

_DEFRAG_FIX = "export VLLM_DEFRAG=false"
_CONTIGUOUS_FIX = "export VLLM_CONTIGUOUS_PA=false"
_UNIFIED_FIX = "unset VLLM_UNIFIED_ATTN"
#: Part of the finding, because the fix is a shell command.
_ALIBI = "a model with ALiBi needs it, and is refused with LMCache"


@check(
    "env.defragmentation",
    "blocks that move: VLLM_DEFRAG, VLLM_CONTIGUOUS_PA",
    why="vllm-gaudi's online defragmentation moves KV blocks without telling the connector: LMCache would load into, "
    "and store from, blocks of other requests (the patched LMCache refuses to start)",
    source=sources.vllm_gaudi("vllm_gaudi/extension/features.py") + "; environment.py (_get_prefix)",
    needs=("running",),
)
def defragmentation(case: Case) -> Answer:
    explicit = case.environ.get("VLLM_DEFRAG")
    if explicit is not None:
        return failure("VLLM_DEFRAG is on", _DEFRAG_FIX) if is_on(explicit) else ok("VLLM_DEFRAG is off")
    plugin = case.version("vllm-gaudi")
    if plugin is not None and plugin.release < (0, 18):
        if is_on(case.environ.get("VLLM_UNIFIED_ATTN")):
            return failure(f"vllm-gaudi {plugin} defragments with VLLM_UNIFIED_ATTN", _UNIFIED_FIX)
        return ok(f"vllm-gaudi {plugin} does not defragment without VLLM_UNIFIED_ATTN")
    if plugin is not None and plugin.release < (0, 19):
        return ok(f"vllm-gaudi {plugin} does not defragment unless VLLM_DEFRAG asks for it")
    cause = _contiguous(case)
    return (
        _defragments(plugin, cause) if cause else ok("contiguous paged attention is off, and defragmentation with it")
    )


def _contiguous(case: Case) -> str:
    """Return what turns contiguous paged attention on; "" if it is off.

    use_contiguous_pa is VLLM_CONTIGUOUS_PA, else the opposite of prefix_caching. This prefix_caching is not vLLM's:
    without VLLM_PREFIX_CACHING, it follows from VLLM_CONTIGUOUS_PA (environment.py, _get_prefix). Up to v0.17.1,
    unified attention also turns contiguous paged attention on.
    """
    contiguous, prefix = case.environ.get("VLLM_CONTIGUOUS_PA"), case.environ.get("VLLM_PREFIX_CACHING")
    if contiguous is not None:
        return "VLLM_CONTIGUOUS_PA is on" if is_on(contiguous) else ""
    if prefix is not None and not is_on(prefix):
        return "VLLM_PREFIX_CACHING is off, which turns contiguous paged attention on"
    plugin = case.version("vllm-gaudi")
    if plugin is not None and plugin.release < (0, 18) and is_on(case.environ.get("VLLM_UNIFIED_ATTN")):
        return "VLLM_UNIFIED_ATTN is on, which turns contiguous paged attention on"
    return ""


def _defragments(plugin: Version | None, cause: str) -> Answer:
    if plugin is None:
        return warning(f"{cause}: vllm-gaudi 0.19 and later then defragment", _DEFRAG_FIX)
    return failure(f"{cause}: vllm-gaudi {plugin} then defragments", _DEFRAG_FIX)


@check(
    "env.contiguous-attention",
    "blocks that are read by position: VLLM_CONTIGUOUS_PA",
    why="with contiguous paged attention, prefills behind a cached prefix read the first blocks of the cache instead "
    "of their own: up to vllm-gaudi 0.21, and in all versions for models with latent attention (MLA). Every hit would "
    "give wrong tokens (the patched LMCache refuses to start)",
    source=sources.vllm_gaudi("vllm_gaudi/extension/utils.py", "v0.21.0") + " (fetch_from_cache)",
    needs=("running",),
)
def contiguous_attention(case: Case) -> Answer:
    cause = _contiguous(case)
    if not cause:
        return ok("off")
    plugin = case.version("vllm-gaudi")
    if plugin is None:
        return warning(f"{cause}, and the version of vllm-gaudi is not known; {_ALIBI}", _CONTIGUOUS_FIX)
    if plugin.release < (0, 24):
        # Here unified attention alone turns it on; doctor also fails that setting.
        if "VLLM_UNIFIED_ATTN" in cause:
            return failure(f"{cause}, with vllm-gaudi {plugin}", _UNIFIED_FIX)
        return failure(f"{cause}, with vllm-gaudi {plugin}; {_ALIBI}", _CONTIGUOUS_FIX)
    return ok(f"{cause}; vllm-gaudi {plugin} reads by block number, but for models with latent attention (MLA)")


@check(
    "vllm.preemption",
    "requests that are preempted",
    why="vllm-gaudi gives wrong answers when vLLM resumes a preempted request from its own prefix cache: the tokens "
    "generated so far are repeated, with or without LMCache",
    source=sources.vllm_gaudi("vllm_gaudi/v1/worker/hpu_input_batch.py") + " (add_request)",
    needs=("arguments",),
)
def preemption(case: Case) -> Answer:
    assert case.arguments is not None
    if case.version("vllm-gaudi") is None:
        return ok("vllm-gaudi is not installed")
    if "no-enable-prefix-caching" in case.arguments.options:
        return ok("vLLM's own prefix cache is off; LMCache offers no hits to resumed requests")
    if is_on(case.environ.get("VLLM_CONTIGUOUS_PA")):
        return ok("VLLM_CONTIGUOUS_PA turns vLLM's own prefix cache off")
    return warning(
        "vLLM's own prefix cache is on",
        "use --no-enable-prefix-caching and let LMCache serve the prefixes, or make the KV cache large enough that "
        "no request is preempted (vllm:num_preemptions_total stays 0)",
    )


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
        return unknown("VLLM_UNIFIED_ATTN is on, and the version of vllm-gaudi is not known", _UNIFIED_FIX)
    if plugin.release < (0, 18):
        return failure(f"VLLM_UNIFIED_ATTN is on with vllm-gaudi {plugin}", _UNIFIED_FIX)
    return ok(f"vllm-gaudi {plugin} no longer knows VLLM_UNIFIED_ATTN")


@check(
    "env.dynamic-kv-quant",
    "VLLM_DYNAMIC_KV_QUANT",
    why="with QUANT_CONFIG, KV blocks carry scales that vllm-gaudi does not pass to the connector: keys would come "
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


CHECKS = (defragmentation, contiguous_attention, preemption, unified_attention, dynamic_kv_quant)
