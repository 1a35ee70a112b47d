# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Functions for LMCache's vLLM adapters: registration, what may be loaded, and failures that must not be silent.

Every function does nothing without an HPU, so that the lines that call them are safe on other devices.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import compat
from .device import is_available
from .guards import GaudiError
from .identity import tag as tag_identity
from .plugin import refuse_engine
from .pool import refuse_small_pool

if TYPE_CHECKING:
    import torch

__all__ = [
    "ended",
    "is_resumed",
    "loads_without_attention_metadata",
    "must_compute",
    "promise_nothing",
    "refuse_short_load",
    "register_kv_caches",
    "register_multiprocess",
    "slot_mapping_device",
    "tag_identity",
]

# What LMCache reads of a request's ``disagg_spec``.
_DECODER = ("req_id", "receiver_host", "receiver_init_port", "receiver_alloc_port")


def register_kv_caches(adapter: Any) -> bool:
    """Pass the caches that vLLM registered with LMCache's adapter to the connector, and warm it up.

    Args:
        adapter: ``LMCacheConnectorV1Impl``, with ``kv_caches`` set.

    Returns:
        Whether this is an HPU, so that there is nothing left to do for layouts of other devices.

    Raises:
        LayoutError: These caches cannot be served.
        GaudiError: vLLM would move blocks, or read others than LMCache loads; or LMCache's host memory is smaller than
            one prompt.
    """
    if not is_available():
        return False
    engine = adapter.lmcache_engine
    connector = engine.gpu_connector if engine is not None else None
    if connector is not None:
        vllm = getattr(adapter, "_vllm_config", None)
        connector.initialize_kvcaches_ptr(kvcaches=list(adapter.kv_caches.values()), vllm_config=vllm)
        if vllm is not None and connector.transfer is not None:
            refuse_small_pool(
                connector.config,
                connector.transfer.layout,
                chunk=connector.chunk_size,
                longest=int(vllm.model_config.max_model_len),
                ranks=int(vllm.parallel_config.world_size),
                metadata=connector.metadata,
                there=compat.pool_bytes(engine),
            )
    return True


def ended(step: Any) -> list[str]:
    """Return the requests that have ended, without those whose ids are used again in the same step.

    vLLM allows it for a request that is aborted and resubmitted. LMCache's notes under its id are the new one's then.

    Args:
        step: vLLM's ``SchedulerOutput``.
    """
    again = {request.req_id for request in step.scheduled_new_reqs}
    return [request_id for request_id in step.finished_req_ids if request_id not in again]


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


def loads_without_attention_metadata() -> bool:
    """Return whether a load is made although the forward context has no attention metadata.

    LMCache only tests them for None. vllm-gaudi gives them to LMCache's own connector and not through a
    MultiConnector (v1/worker/hpu_model_runner.py), where the load is still due: the scheduler has counted its
    tokens as computed.
    """
    return is_available()


def must_compute(request: Any) -> bool:
    """Return whether nothing may be loaded for a request, because the engine would answer wrongly after a hit.

    * It has outputs, so it was preempted and is resumed. vllm-gaudi takes only a request with 0 computed tokens for a
      resumed one (v1/worker/hpu_input_batch.py, add_request); with a hit it returns a token again for each output.
    * vLLM's own prefix cache is not to be read for it: log probabilities of the prompt, or a pooled vector, need every
      token to be computed. Releases of vLLM before 0.13 do not say so; there all of these are computed.

    Args:
        request: vLLM's request, on the scheduler's side.
    """
    if not is_available():
        return False
    if request.num_output_tokens > 0:
        return True
    skips = getattr(request, "skip_reading_prefix_cache", None)
    if skips is not None:
        return bool(skips)
    sampling = getattr(request, "sampling_params", None)
    pools = getattr(request, "pooling_params", None) is not None
    return pools or getattr(sampling, "prompt_logprobs", None) is not None


def promise_nothing(adapter: Any, request: Any, computed: int) -> bool:
    """Answer the scheduler's question about cached tokens if nothing may be loaded; else LMCache has to look.

    Leaves the same traces as a lookup without a hit: LMCache expects them for every resumed request.

    Args:
        adapter: ``LMCacheConnectorV1Impl``.
        request: vLLM's request.
        computed: Tokens that vLLM has itself.

    Returns:
        Whether the answer is 0; else LMCache has to look.
    """
    _take_out_bad_settings(adapter, request)
    if _starts_anew(adapter, request):
        return True
    if not must_compute(request):
        _ask_again(adapter, request)
        return False
    from ..integration.vllm.vllm_v1_adapter import LoadSpec

    adapter.load_specs[request.request_id] = LoadSpec(
        vllm_cached_tokens=computed, lmcache_cached_tokens=0, can_load=False
    )
    priorities = getattr(adapter, "_requests_priority", None)
    if priorities is not None and request.num_output_tokens == 0:
        # The omitted lookup would set this, for ``priority_limit``: without it the request would be stored.
        priorities[request.request_id] = getattr(request, "priority", 0)
    return True


def _take_out_bad_settings(adapter: Any, request: Any) -> None:
    """Take out of a request what LMCache reads unchecked, and what would end the engine.

    The proxy of disaggregated serving sends ``disagg_spec`` and ``ret_first_tok`` to a prefiller. Elsewhere only a
    client can have set them, and LMCache would raise: at the first if it is incomplete, at the second if the request is
    aborted before its first token.
    """
    given = getattr(request, "kv_transfer_params", None)
    if not given or not is_available():
        return
    wrong = {"disagg_spec", "ret_first_tok"} & {*given}
    if getattr(adapter.config, "enable_pd", False):
        spec = given.get("disagg_spec")
        named = isinstance(spec, Mapping) and {*_DECODER} <= {*spec} and isinstance(spec["receiver_host"], str)
        wrong &= set() if named else {"disagg_spec"}
    if wrong:
        from ..logging import init_logger  # here: nothing of LMCache is needed to import this module

        names = ", ".join(sorted(wrong))
        init_logger(__name__).warning("request %s: %s in its kv_transfer_params ignored", request.request_id, names)
        request.kv_transfer_params = {name: value for name, value in given.items() if name not in wrong}


def _ask_again(adapter: Any, request: Any) -> None:
    """Make LMCache forget a lookup's answer that is not this request's, or so old that its chunks may be released.

    It keeps an answer until its request is scheduled: for one that waits for blocks, and for another request with the
    id of one that was aborted while it waited. Asynchronous loading holds its chunks until then, and is told of aborted
    requests (from 0.3.10 on).
    """
    client = getattr(adapter, "lookup_client", None)
    if not is_available() or client is None or getattr(adapter, "async_loading", False):
        return
    now = time.monotonic()
    asked = getattr(request, "gaudi_asked", None)
    if asked is not None and now - asked < compat.kept_seconds(adapter.config) / 2:
        return
    if hasattr(client, "clear_lookup_status"):  # 0.3.7 keeps no answers
        client.clear_lookup_status(request.request_id)
    request.gaudi_asked = now


def _starts_anew(adapter: Any, request: Any) -> bool:
    """Return whether a preempted request is resumed in a release that does not know such requests: 0.3.7.

    It loads only for new requests, so nothing may be promised. It would also continue after the tokens and blocks
    from before, which may belong to another request by now, and store their content. So its tracker is emptied.
    """
    tracker = getattr(adapter, "_request_trackers", {}).get(request.request_id)
    if tracker is None or not is_available() or compat.knows_resumed_requests(type(adapter)):
        return False
    tracker.token_ids, tracker.allocated_block_ids = [], []
    return True


def register_multiprocess(adapter: Any, kv_caches: dict[str, Any]) -> None:
    """Refuse caches that cannot be served, when the worker of LMCache's multiprocess mode gets them.

    Args:
        adapter: ``LMCacheMPWorkerAdapter``, before it has taken them.
        kv_caches: The caches by layer, as vLLM registers them.

    Raises:
        GaudiError: On HPU, if blocks would move or be read elsewhere, or if there are other caches already: vLLM has
            woken up, or vllm-gaudi's multi-model server has loaded another model, whose keys are the first one's.
    """
    if not is_available():
        return
    if adapter.kv_caches:
        raise GaudiError(
            "vLLM registered KV caches once more (after sleep, or for another model), and LMCache accepts them only "
            "once; restart vLLM"
        )
    # vLLM's worker registers within the context of its configuration; elsewhere there is none, which is not an error.
    current = getattr(sys.modules.get("vllm.config"), "get_current_vllm_config_or_none", None)
    refuse_engine(list(kv_caches.values()), current() if current is not None else None)


def refuse_short_load(request_id: str, retrieved: torch.Tensor, expected: torch.Tensor) -> None:
    """Fail if the cache returned fewer tokens than the scheduler was promised.

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
    """Return where the adapter should keep slot mappings: on HPU the host, since indices are computed there."""
    import torch

    return torch.device("cpu") if is_available() else device
