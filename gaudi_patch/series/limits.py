"""Features of LMCache that no patch makes work on an HPU, and the releases that lack them.

The patched LMCache refuses nearly all of them at start-up, with the reason (guards, plugin, pool and layout in
patches/runtime/lmcache/gaudi); `doctor` reports them before a server is started. A test checks that each refusal has
a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gaudi_patch.series.model import Series


class Limit(NamedTuple):
    """One feature, what to use instead, and where it is missing.

    ``releases`` is a PEP 440 specifier. ``without``, if set, is a capability: releases without it have the limit.
    """

    what: str
    instead: str
    releases: str = ""
    without: str = ""

    def holds(self, series: Series) -> bool:
        """Return whether ``series`` has this limit."""
        if self.without:
            return self.without not in series.capabilities
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(self.releases).contains(series.id, prereleases=True)


#: Releases by their vllm-gaudi: before v0.24.0 all prefills read blocks by position, from v0.24.0 on only those of
#: latent attention (MLA).
_BEFORE_0_24, _FROM_0_24 = "<0.5.0", ">=0.5.0"

LIMITS: Sequence[Limit] = (
    Limit("layerwise transfer and blending (use_layerwise, enable_blending)", "whole prompts, the default"),
    Limit("CacheGen compression", "remote_serde: naive"),
    Limit("GPUDirect Storage and Weka (gds_path, weka_path)", "local_disk on an NVMe, or a mounted share"),
    Limit("peer to peer (enable_p2p)", "a remote store"),
    Limit("NIXL on HPU memory", "a buffer on the host: pd_buffer_device or nixl_buffer_device: cpu"),
    Limit("lookups that bypass the workers (enable_scheduler_bypass_lookup)", "leave it out", ">=0.3.9.post1"),
    Limit("lookups in another service (external_lookup_client)", "leave it out: all workers are asked"),
    Limit("lookups by one of the ranks (mla_lookup_server_worker_id)", "leave it out: all are asked", "==0.3.9"),
    Limit("lookups by some of the ranks (lookup_server_worker_ids)", "leave it out: all are asked", ">=0.3.9.post1"),
    Limit(
        "a pool smaller than one prompt of max_model_len (max_local_cpu_size)",
        "the size that `gaudi-patch size MODEL` prints",
    ),
    Limit("engines other than vLLM", "vLLM with vllm-gaudi"),
    Limit("KV blocks that move: defragmentation (VLLM_DEFRAG)", "VLLM_DEFRAG=false"),
    Limit("unified attention (VLLM_UNIFIED_ATTN; vllm-gaudi has it up to 0.17)", "leave it unset", "<0.4.3"),
    Limit("contiguous paged attention (VLLM_CONTIGUOUS_PA)", "VLLM_CONTIGUOUS_PA=false", _BEFORE_0_24),
    Limit("contiguous paged attention (VLLM_CONTIGUOUS_PA) of MLA models", "VLLM_CONTIGUOUS_PA=false", _FROM_0_24),
    Limit(
        "models with ALiBi (alibi_slopes), which prefills after a cached prefix ignore", "serve them without LMCache"
    ),
    Limit("sleep mode (--enable-sleep-mode)", "leave it out"),
    Limit("vLLM's own copy of the adapter (use_native)", "leave it out, to use LMCache's own"),
    Limit("KV quantised with dynamic scales (VLLM_DYNAMIC_KV_QUANT)", "static scales (fp8_inc), or none"),
    Limit("hybrid and state-space models (Mamba)", "models whose layers all have attention"),
    Limit("a local disk (local_disk) for models with layers of several kinds", "host memory, or a remote store"),
    Limit("hits for prompt log probabilities and pooled vectors", "nothing to do: they are computed in full"),
    Limit("multiprocess mode", "LMCache 0.5.5 or later, or a mode in the engine's process", without="mp-engine-driven"),
    Limit("disaggregated serving by enable_pd", "LMCache 0.3.14 or later", "<0.3.14"),
    Limit("disaggregated serving with asynchronous loading (enable_async_loading)", "leave enable_async_loading out"),
    Limit("enable_lazy_memory_allocator, which pins by CUDA", "the default allocator", ">=0.3.13,<=0.5.0"),
    Limit("models that mix MLA with other attention", "another release", ">=0.4.5,<=0.5.0"),
    Limit("models whose layers differ, or share the KV of another", "LMCache 0.3.12 or later", without="hybrid-layers"),
    Limit(
        "several LoRA adapters or cache salts", "a series that includes them in cache keys", without="request-identity"
    ),
)
