# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- vllm-gaudi's and vLLM's objects differ between releases and have no types here
"""Settings of vllm-gaudi and vLLM under which blocks move, are read elsewhere, or change their memory.

They are refused when the caches are registered, which every connector does before the first request. Sources are
files of vllm-gaudi; it is never imported here, only looked at where the worker has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from .guards import GaudiError

__all__ = ["refuse_engine"]


class _Refusal(NamedTuple):
    """What is wrong, and the setting that avoids it, if the problem is not the model itself."""

    reason: str
    advice: str


def refuse_engine(kvcaches: Sequence[Any], vllm_config: Any = None) -> None:
    """Refuse an engine that would answer from other blocks than LMCache loads.

    Args:
        kvcaches: One entry a layer, as vLLM registers them.
        vllm_config: vLLM's configuration, where the caller has it.

    Raises:
        GaudiError: With all reasons, and settings under which the engine starts.
    """
    runtime = sys.modules.get("vllm_gaudi.extension.runtime")
    refusals = []
    if runtime is not None and _has_alibi(vllm_config):
        # Reported alone: contiguous paged attention cannot be turned off for such a model, so no setting would help.
        refusals.append(
            _Refusal(
                "this model has ALiBi: vllm-gaudi leaves its bias out of prefills behind a cached prefix "
                "(attention/backends/hpu_attn.py, forward), so that every hit would give wrong tokens",
                "serve this model without LMCache: leave --kv-transfer-config out",
            )
        )
    elif runtime is not None:
        refusals += _settings(runtime.get_config(), latent=any(map(_is_latent, kvcaches)))
    if getattr(getattr(vllm_config, "model_config", None), "enable_sleep_mode", False):
        refusals.append(
            _Refusal(
                "enable_sleep_mode: waking up gives vLLM new KV caches (vllm_gaudi/v1/worker/hpu_worker.py, wake_up), "
                "and LMCache accepts them only once",
                "leave --enable-sleep-mode out",
            )
        )
    if refusals:
        raise GaudiError(
            "LMCache cannot serve vLLM with these settings:\n- "
            + "\n- ".join(refusal.reason for refusal in refusals)
            + "\n"
            + "\n".join(refusal.advice for refusal in refusals)
        )


def _settings(settings: Any, *, latent: bool) -> list[_Refusal]:
    refusals = []
    if _is_on(settings, "unified_attn"):
        refusals.append(
            _Refusal(
                "unified attention (VLLM_UNIFIED_ATTN): vllm-gaudi then returns from each step before it calls the KV "
                "connector (v1/worker/hpu_model_runner.py), so that nothing is stored or loaded",
                "unset VLLM_UNIFIED_ATTN",
            )
        )
    if _is_on(settings, "defrag"):
        refusals.append(
            _Refusal(
                "online defragmentation (VLLM_DEFRAG): it moves KV blocks and tells only vllm-gaudi's own tables "
                "(extension/defragmentation.py), so that LMCache would load into and store from the wrong blocks",
                "export VLLM_DEFRAG=false",
            )
        )
    if _is_on(settings, "use_contiguous_pa") and not _prefill_reads_by_block(latent=latent):
        kind = "of models with latent attention (MLA) " if latent else ""
        refusals.append(
            _Refusal(
                f"contiguous paged attention (VLLM_CONTIGUOUS_PA): in this vllm-gaudi, prefills {kind}behind a cached "
                "prefix read the first blocks of the cache in place of their own (extension/utils.py, "
                "fetch_from_cache), so that every hit would give wrong tokens",
                "export VLLM_CONTIGUOUS_PA=false",
            )
        )
    return refusals


def _is_on(settings: Any, name: str) -> bool:
    try:
        return bool(getattr(settings, name))
    except (AttributeError, AssertionError):  # extension/config.py asserts that it knows the name
        return False


def _has_alibi(vllm_config: Any) -> bool:
    """Return whether an attention layer has ALiBi slopes; vLLM lists its layers in its configuration."""
    layers = getattr(getattr(vllm_config, "compilation_config", None), "static_forward_context", None) or {}
    return any(getattr(getattr(layer, "impl", None), "alibi_slopes", None) is not None for layer in layers.values())


def _is_latent(entry: Any) -> bool:
    """Return whether a layer's cache has no V: MLA's, in one of the forms of :mod:`.layout`."""
    return not isinstance(entry, (tuple, list)) or len(entry) < 2 or entry[1] is None


def _prefill_reads_by_block(*, latent: bool) -> bool:
    """Return whether prefills gather the blocks of their context by number although contiguous paged attention is on.

    From v0.24.0 on ``HPUAttentionImpl`` sets a flag on its caches for it. ``HPUMLAImpl`` never does, up to the
    main branch of August 2026.
    """
    utils = sys.modules.get("vllm_gaudi.extension.utils")
    backend = sys.modules.get("vllm_gaudi.attention.backends.hpu_attn")
    fetch = getattr(getattr(utils, "VLLMKVCache", None), "fetch_from_cache", None)
    if "_fetch_by_id" not in _words(fetch):
        return False
    users = [getattr(backend, "HPUAttentionImpl", None), getattr(backend, "HPUMLAImpl", None)]
    return any("_set_fetch_by_id" in _words(function) for function in _functions(users[latent]))


def _functions(kind: Any) -> list[Any]:
    return list(vars(kind).values()) if isinstance(kind, type) else []


def _words(function: Any) -> set[str]:
    """Return the names and strings of a function's code; none of what is no plain function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return set()
    return {*code.co_names, *(value for value in code.co_consts if isinstance(value, str))}
