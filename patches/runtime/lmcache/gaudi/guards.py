# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Refuse what cannot work on Gaudi, with the reason, when LMCache starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from .device import is_available

__all__ = [
    "GaudiError",
    "refuse_config",
    "refuse_degraded_mode",
    "refuse_hybrid_on_disk",
    "refuse_partial_lookups",
]


class GaudiError(RuntimeError):
    """Continuing would give wrong tokens, or a cache that silently does nothing."""


def refuse_config(config: Any, engine: str) -> None:
    """Refuse features that have no implementation on HPU.

    Args:
        config: LMCache's engine configuration.
        engine: Name of the serving engine.

    Raises:
        GaudiError: With all refused settings and their reasons.
    """
    extra = getattr(config, "extra_config", None) or {}

    def value(name: str) -> Any:
        return getattr(config, name, None)

    refused = []
    if engine != "VLLM":
        refused.append(f"serving engine {engine}: only vLLM has a KV-cache connector on Gaudi")
    if value("use_layerwise"):
        refused.append("use_layerwise: vllm-gaudi never calls the connector per layer")
    if value("enable_blending"):
        refused.append("enable_blending: needs the layerwise connector, which vllm-gaudi never calls")
    if value("remote_serde") not in (None, "naive"):
        refused.append(f"remote_serde={value('remote_serde')}: CacheGen codes on a CUDA device; use naive")
    refused += [
        f"{name}: GPUDirect Storage reads into CUDA memory" for name in ("gds_path", "weka_path") if value(name)
    ]
    if value("enable_p2p"):
        refused.append("enable_p2p: registers device memory with NIXL, which cannot address HPU memory")
    if value("enable_pd") and not _pd_takes_the_host():
        refused.append(
            "enable_pd: in this LMCache release it needs a buffer in CUDA memory; LMCache 0.3.14 and later take "
            "pd_buffer_device: cpu"
        )
    elif value("enable_pd") and not _on_host(value("pd_buffer_device")):
        refused.append(f"pd_buffer_device={value('pd_buffer_device')}: NIXL cannot address HPU memory; use cpu")
    if extra.get("enable_nixl_storage") and not _on_host(value("nixl_buffer_device")):
        refused.append(f"nixl_buffer_device={value('nixl_buffer_device')}: NIXL cannot address HPU memory; use cpu")
    if value("enable_lazy_memory_allocator") and _pins_with_cuda():
        refused.append("enable_lazy_memory_allocator: in this LMCache release it pins memory with CUDA's runtime")
    if value("enable_pd") and value("enable_async_loading"):
        refused.append(
            "enable_async_loading with enable_pd: LMCache's backend of disaggregated serving has no asynchronous "
            "lookup, so every lookup would be a miss; leave enable_async_loading out"
        )
    refused += [
        f"{name}: the scheduler then promises chunks that no worker has loaded into its memory, and vllm-gaudi cannot "
        "recompute those lost before the load"
        for name in ("enable_scheduler_bypass_lookup", "external_lookup_client")
        if value(name)
    ]
    if refused:
        raise GaudiError("LMCache cannot run on Gaudi with this configuration:\n- " + "\n- ".join(refused))


def refuse_partial_lookups(config: Any, metadata: Any) -> None:
    """Refuse lookups that not every rank answers which loads: the others would hold nothing of what is promised.

    Args:
        config: LMCache's engine configuration.
        metadata: LMCache's engine metadata.

    Raises:
        GaudiError: With the setting, and who has to answer.
    """
    name, given = _answering(config)
    if not given:  # LMCache asks all ranks that load
        return
    # With MLA the first rank loads for all.
    loading = {0} if getattr(metadata, "use_mla", False) else set(range(metadata.world_size))
    if not loading <= set(given):
        raise GaudiError(
            f"LMCache cannot run on Gaudi with this configuration:\n- {name}: ranks "
            f"{sorted(loading - set(given))} would load chunks that they have not looked up, and vllm-gaudi cannot "
            "recompute lost chunks. Leave it out: then every rank that loads is asked"
        )


def refuse_hybrid_on_disk(config: Any, kinds: int) -> None:
    """Refuse LMCache's disk backend for models whose layers differ: it writes the first tensor of an object only.

    Args:
        config: LMCache's engine configuration.
        kinds: Number of tensors in a memory object, one for each kind of layer.

    Raises:
        GaudiError: There is more than one, and a disk backend.
    """
    if kinds > 1 and getattr(config, "local_disk", None):
        raise GaudiError(
            f"the layers of this model have KV caches of {kinds} kinds, and LMCache's local disk backend stores "
            "memory objects of one kind only; unset local_disk"
        )


def refuse_degraded_mode(error: BaseException) -> None:
    """Fail if LMCache would continue without a cache after an error at start-up.

    Raises:
        GaudiError: On HPU, from ``error``.
    """
    if is_available():
        raise GaudiError(f"LMCache failed to initialise on Gaudi: {error}") from error


def _answering(config: Any) -> tuple[str, list[int]]:
    """Return the setting that names the ranks which answer lookups, as it is set, and these ranks; none: all that load.

    0.3.9 has one rank, with or without MLA, and all below 0; later releases have a list, 0.3.7 has neither.
    """
    ranks = getattr(config, "lookup_server_worker_ids", None)
    if ranks:
        return f"lookup_server_worker_ids={list(ranks)}", list(ranks)
    rank = getattr(config, "mla_lookup_server_worker_id", None)
    return f"mla_lookup_server_worker_id={rank}", [] if rank is None or rank < 0 else [rank]


def _on_host(device: Any) -> bool:
    return str(device or "").split(":")[0] == "cpu"


def _pins_with_cuda() -> bool:
    """Return whether this release's lazy allocator calls ``torch.cuda.cudart()``, as those from 0.3.13 to 0.5.0 do."""
    return b".cudart()" in _source("lmcache.v1.lazy_memory_allocator")


def _pd_takes_the_host() -> bool:
    """Whether this release's PD backend can put its buffer on the host; up to 0.3.13 it calls torch.cuda whatever."""
    source = _source("lmcache.v1.storage_backend.pd_backend")
    return not source or b"init_cpu_memory_allocator" in source


def _source(module: str) -> bytes:
    """Return the source of a module of LMCache, without importing it; empty where this release has no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return b""
    return Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
