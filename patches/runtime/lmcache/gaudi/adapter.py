# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""What LMCache's vLLM adapter calls: registration of the caches, and failures that must not pass in silence.

Every function does nothing where there is no HPU, so that the lines which call them are safe on other devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .device import is_available
from .guards import GaudiError
from .identity import tag as tag_identity
from .pool import refuse_small_pool

if TYPE_CHECKING:
    import torch

__all__ = [
    "is_resumed",
    "refuse_short_load",
    "refuse_unseen_load",
    "register_kv_caches",
    "slot_mapping_device",
    "tag_identity",
]


def register_kv_caches(adapter: Any) -> bool:
    """Give the caches that vLLM has registered with LMCache's adapter to the connector; warms it up.

    Args:
        adapter: ``LMCacheConnectorV1Impl``, with ``kv_caches`` set.

    Returns:
        Whether this is an HPU, so that there is nothing left to do for layouts of other devices.

    Raises:
        LayoutError: These caches cannot be served.
        GaudiError: vllm-gaudi would move blocks under LMCache, or LMCache's host memory is smaller than one prompt.
    """
    if not is_available():
        return False
    engine = adapter.lmcache_engine
    connector = engine.gpu_connector if engine is not None else None
    if connector is not None:
        connector.initialize_kvcaches_ptr(kvcaches=list(adapter.kv_caches.values()))
        vllm = getattr(adapter, "_vllm_config", None)
        if vllm is not None and connector.transfer is not None:
            refuse_small_pool(
                connector.config,
                connector.transfer.layout,
                chunk=connector.chunk_size,
                longest=int(vllm.model_config.max_model_len),
                ranks=int(vllm.parallel_config.world_size),
            )
    return True


def is_resumed(cached_requests: Any, number: int, request_id: str) -> bool:
    """Return whether vLLM resumes a request that it had preempted.

    Args:
        cached_requests: vLLM's ``CachedRequestData`` of this step.
        number: Position of the request in it.
        request_id: The request.

    Raises:
        AttributeError: This vLLM has neither ``resumed_req_ids`` nor ``resumed_from_preemption`` (up to 0.11.0).
    """
    if hasattr(cached_requests, "resumed_req_ids"):
        return request_id in cached_requests.resumed_req_ids
    return bool(cached_requests.resumed_from_preemption[number])


def refuse_unseen_load(metadata: Any) -> None:
    """Fail where LMCache would skip a load because the forward pass has no attention metadata.

    The scheduler has counted these tokens as cached already; without the load the model reads blocks that nobody
    has written. vllm-gaudi gives attention metadata only to LMCache's own connector, not through a
    MultiConnector and not to vLLM's native LMCache integration (``use_native``).

    Args:
        metadata: LMCache's connector metadata of this step.

    Raises:
        GaudiError: On HPU, if a load is due.
    """
    if not is_available():
        return
    due = [r.req_id for r in metadata.requests if r.load_spec is not None and r.load_spec.can_load]
    if due:
        raise GaudiError(
            f"a KV load is due for {', '.join(map(str, due))}, but the forward pass came without attention metadata; "
            "the cached tokens would be read from blocks that were never written. Use LMCacheConnectorV1 directly "
            "(no MultiConnector, no use_native)"
        )


def refuse_short_load(request_id: str, retrieved: torch.Tensor, expected: torch.Tensor) -> None:
    """Fail where fewer tokens came out of the cache than the scheduler was promised.

    vLLM recomputes such blocks when the worker reports them; vllm-gaudi does not pass the report on
    (``KVConnectorOutput`` without ``invalid_block_ids``), so the blocks would be read as they are.

    Args:
        request_id: The request.
        retrieved: Boolean, which tokens were loaded.
        expected: Boolean, which tokens were to be loaded; same length.

    Raises:
        GaudiError: On HPU, if a token is missing.
    """
    if not is_available():
        return
    missing = int((expected.cpu() & ~retrieved.cpu()).sum())
    if missing:
        raise GaudiError(
            f"request {request_id}: {missing} of {int(expected.sum())} cached tokens could not be loaded (evicted, or "
            "lost by the remote store, between lookup and load), and vllm-gaudi cannot recompute them"
        )


def slot_mapping_device(device: Any) -> Any:
    """Where the adapter should keep slot mappings: on HPU the host, since indices are computed there."""
    import torch

    return torch.device("cpu") if is_available() else device
