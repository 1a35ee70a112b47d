"""What does not work on an HPU whatever is patched, in words: LMCache's features, and the releases they are missing in.

The patched LMCache refuses each when it is configured, with the reason (patches/runtime/lmcache/gaudi/guards.py);
`doctor` says so before a server is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gaudi_patch.series.model import Series


class Limit(NamedTuple):
    """One feature, what to take in its place, and where it is missing.

    ``releases`` is a PEP 440 specifier; ``without``, where set, is a capability: releases that lack it have the limit.
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


LIMITS: Sequence[Limit] = (
    Limit("layerwise transfer and blending", "whole prompts, the default"),
    Limit("CacheGen compression", "remote_serde: naive"),
    Limit("GPUDirect Storage and Weka (gds_path, weka_path)", "local_disk on an NVMe, or a mounted share"),
    Limit("peer to peer (enable_p2p)", "a remote store"),
    Limit("NIXL on HPU memory", "a buffer on the host: pd_buffer_device or nixl_buffer_device: cpu"),
    Limit("moving KV blocks (defragmentation)", "vllm-gaudi's default, which leaves them"),
    Limit("vLLM's unified attention and sleep mode", "the defaults, which leave them off"),
    Limit("multiprocess mode", "LMCache 0.5.5 or later, or a mode in the engine's process", without="mp-engine-driven"),
    Limit("disaggregated serving by enable_pd", "LMCache 0.3.14 or later", "<0.3.14"),
    Limit("enable_lazy_memory_allocator, which pins by CUDA", "the default allocator", ">=0.3.13,<=0.5.0"),
    Limit("models that mix MLA with other attention", "another release", ">=0.4.5,<=0.5.0"),
    Limit("models whose layers share the KV of another", "LMCache 0.3.12 or later", "<=0.3.11"),
)
