# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Failed loads in multiprocess mode: what vLLM must know before it may read the blocks.

vLLM asks a connector for the blocks that could not be loaded (``invalid_block_ids``) and recomputes them, or ends
the request. vllm-gaudi asks only in steps without a forward pass; in all others it hands over what has finished and
nothing of what has failed (vllm_gaudi/v1/worker/hpu_model_runner.py, v0.13 to v0.27: ``KVConnectorOutput`` with
``finished_sending`` and ``finished_recving`` only). A failed load would then count as loaded.

So a failed load is withheld: it is not finished before vLLM has taken its blocks. Where vllm-gaudi's runner is known,
its report is completed as well, so that a busy engine need not wait for a step without a forward pass.

No decorator changes hosts without an HPU.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from ..logging import init_logger
from .device import is_available
from .layout import normalise
from .pool import refuse_small_server
from .server_chunks import forget, server_chunks
from .watched import WatchedClient, start_heartbeats

__all__ = ["FailedLoads", "complete_reports", "promise_once", "whole_answer", "withhold_failed_loads"]

logger = init_logger(__name__)

_RUNNER = "vllm_gaudi.v1.worker.hpu_model_runner"


class FailedLoads:
    """The failed loads of one worker, and whether vLLM knows of them.

    Args:
        adapter: LMCache's ``LMCacheMPWorkerAdapter``, with the failed blocks in ``error_block_ids``.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._shared: dict[str, set[int]] = {}  # blocks that vLLM itself had, not written by the load
        self._own: dict[str, set[int]] = {}
        self._known: dict[str, bool] = {}  # failed loads; True once vLLM has taken their blocks

    def submitted(self, request: str, op: Any) -> None:
        """Note the blocks of a load."""
        blocks = list(op.flat_block_ids)
        block_tokens = self._adapter.lmcache_tokens_per_chunk // self._adapter.blocks_in_chunk
        skipped = int(getattr(op, "skip_first_n_tokens", 0) or 0) // block_tokens
        self._shared[request], self._own[request] = set(blocks[:skipped]), set(blocks[skipped:])

    def fail(self, request: str) -> None:
        """Count a load as failed that could not even be submitted."""
        adapter = self._adapter
        adapter.error_block_ids.update(self._own[request])
        if hasattr(adapter, "_failed_request_ids"):  # from 0.5.6 on
            adapter._failed_request_ids.add(request)
        adapter._dropped_retrieves.add(request)

    def taken(self) -> None:
        """Note that vLLM has taken the failed blocks."""
        self._known = dict.fromkeys(self._known, True)

    def filter(self, sending: Any, receiving: Any) -> tuple[Any, set[str]]:
        """Remove failed loads that vLLM does not know of from those that LMCache reports as finished.

        Args:
            sending: Requests whose stores have finished; one that vLLM has ended is among them.
            receiving: Requests whose loads have finished, failed ones among them.

        Returns:
            Both, as vLLM may see them.
        """
        finished = set(receiving or ())
        for request in finished:
            own = self._own.pop(request, set())
            if own & self._adapter.error_block_ids:
                # Running requests share these blocks, whose content is right.
                self._adapter.error_block_ids -= self._shared.get(request, set())
                self._known[request] = False
                self._own[request] = own
                logger.error(
                    "request %s: its %d cached KV blocks could not be loaded; vLLM recomputes them, or ends this "
                    "request (kv_load_failure_policy)",
                    request,
                    len(own),
                )
            self._shared.pop(request, None)
        finished -= self._known.keys()
        for request in [name for name in self._known if name in (sending or ())]:
            # vLLM has ended it and now frees its blocks: they must not be reported invalid once another request has
            # them.
            self._adapter.error_block_ids -= self._own.pop(request)
            if hasattr(self._adapter, "_failed_request_ids"):
                self._adapter._failed_request_ids.discard(request)
            del self._known[request]
        for request in [name for name, known in self._known.items() if known]:
            finished.add(request)
            del self._known[request], self._own[request]
        return sending, finished


def withhold_failed_loads(adapter: type) -> type:
    """Decorate ``LMCacheMPWorkerAdapter``: no failed load is finished before vLLM knows, no wait outlives the server.

    Args:
        adapter: The class.

    Returns:
        The same class; its instances behave differently on HPU only.
    """

    def initialise(original: Callable[..., None]) -> Callable[..., None]:
        def construct(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if is_available():
                self.gaudi_loads = FailedLoads(self)
                self.req_client = WatchedClient(self.req_client, self)
                complete_reports()

        return construct

    def submit(original: Callable[..., None]) -> Callable[..., None]:
        def submit_retrieve_request(self: Any, request_id: str, op: Any, *args: Any, **kwargs: Any) -> None:
            loads = _loads(self)
            if loads is None:
                original(self, request_id, op, *args, **kwargs)
                return
            loads.submitted(request_id, op)
            try:
                original(self, request_id, op, *args, **kwargs)
            except Exception:
                logger.exception("request %s: the load could not be made", request_id)
                loads.fail(request_id)

        return submit_retrieve_request

    def store(original: Callable[..., None]) -> Callable[..., None]:
        def submit_store_request(self: Any, request_id: str, *args: Any, **kwargs: Any) -> None:
            if _loads(self) is None:
                original(self, request_id, *args, **kwargs)
                return
            try:
                original(self, request_id, *args, **kwargs)
            except Exception:  # over shared memory, a server that does not answer is one
                logger.exception("request %s: the store could not be made; its chunks are not cached", request_id)
                if getattr(self, "lazy_offload", False):  # as LMCache reports a store that it drops
                    self._completed_store_requests[request_id] = 1
                    if hasattr(self, "_failed_store_requests"):  # from 0.5.6 on
                        self._failed_store_requests.add(request_id)

        return submit_store_request

    def finished(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_finished(self: Any, *args: Any, **kwargs: Any) -> Any:
            sending, receiving = original(self, *args, **kwargs)
            loads = _loads(self)
            return (sending, receiving) if loads is None else loads.filter(sending, receiving)

        return get_finished

    def register(original: Callable[..., None]) -> Callable[..., None]:
        def register_kv_caches(self: Any, kv_caches: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            original(self, kv_caches, *args, **kwargs)
            if is_available():
                _refuse_small_server(self, kv_caches)
                held = getattr(self, "gaudi_chunks", None)
                if held is not None and not held.serves(kv_caches.values(), self.blocks_in_chunk):
                    forget(held)
                # This compiles, before there are requests.
                self.gaudi_chunks = server_chunks(kv_caches, self.blocks_in_chunk)

        return register_kv_caches

    def shut_down(original: Callable[..., None]) -> Callable[..., None]:
        def shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original(self, *args, **kwargs)
            finally:
                if (held := getattr(self, "gaudi_chunks", None)) is not None:
                    del self.gaudi_chunks
                    forget(held)

        return shutdown

    def errors(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_errors(self: Any) -> Any:
            found = original(self)
            if (loads := _loads(self)) is not None:
                loads.taken()
            return found

        return get_errors

    _wrap(adapter, "__init__", initialise)
    _wrap(adapter, "register_kv_caches", register)
    _wrap(adapter, "submit_retrieve_request", submit)
    _wrap(adapter, "submit_store_request", store)
    _wrap(adapter, "shutdown", shut_down)
    _wrap(adapter, "get_finished", finished)
    _wrap(adapter, "get_finished_with_lazy_offload", finished)
    _wrap(adapter, "get_block_ids_with_load_errors", errors)
    _wrap(adapter, "get_failed_request_ids", errors)
    return adapter


def promise_once(adapter: type) -> type:
    """Decorate ``LMCacheMPSchedulerAdapter``: a request whose load failed is promised nothing again.

    No lookup waits for a server that is dead, in 0.5.5 either. vLLM looks such a request up again when it recomputes
    it. A second hit would not be loaded by vLLM's own connector, which would wait for it forever, or fail in the same
    way again.

    Args:
        adapter: The class.

    Returns:
        The same class; its instances behave differently on HPU only.
    """

    def submit(original: Callable[..., None]) -> Callable[..., None]:
        def maybe_submit_lookup_request(self: Any, request_id: str, *args: Any, **kwargs: Any) -> None:
            if request_id not in self.__dict__.get("gaudi_promised", ()):
                original(self, request_id, *args, **kwargs)

        return maybe_submit_lookup_request

    def clean(original: Callable[..., None]) -> Callable[..., None]:
        def cleanup_lookup_result(self: Any, request_id: str) -> None:
            if self._finished_lookup_results.get(request_id) and is_available():
                self.__dict__.setdefault("gaudi_promised", set()).add(request_id)
            original(self, request_id)

        return cleanup_lookup_result

    def end(original: Callable[..., None]) -> Callable[..., None]:
        def end_session(self: Any, request_id: str, *args: Any, **kwargs: Any) -> None:
            self.__dict__.get("gaudi_promised", set()).discard(request_id)
            original(self, request_id, *args, **kwargs)

        return end_session

    def beat(original: Callable[..., None]) -> Callable[..., None]:
        def _ensure_heartbeat_started(self: Any) -> None:
            if is_available():
                start_heartbeats(self)
            original(self)

        return _ensure_heartbeat_started

    _wrap(adapter, "_ensure_heartbeat_started", beat)
    _wrap(adapter, "maybe_submit_lookup_request", submit)
    _wrap(adapter, "cleanup_lookup_result", clean)
    _wrap(adapter, "end_session", end)
    return adapter


def complete_reports() -> bool:
    """Make vllm-gaudi's runner report failed blocks in steps with a forward pass, too.

    It makes its report under a name of its own module, which is given the missing field. A vllm-gaudi that fills the
    field by itself, or makes the report elsewhere, is left alone: what has failed is withheld until it asks.

    Returns:
        Whether the runner's reports are completed.
    """
    runner = sys.modules.get(_RUNNER)
    plain = getattr(runner, "KVConnectorOutput", None)
    if plain is None or getattr(plain, "completed_by_gaudi", False):
        return plain is not None
    from vllm.distributed.kv_transfer import get_kv_transfer_group  # type: ignore[import-not-found,unused-ignore]

    @functools.wraps(plain, updated=())
    def report(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        if not output.invalid_block_ids:
            output.invalid_block_ids = get_kv_transfer_group().get_block_ids_with_load_errors()
        return output

    report.completed_by_gaudi = True  # type: ignore[attr-defined]
    runner.KVConnectorOutput = report  # type: ignore[union-attr]
    logger.info("vllm-gaudi's reports are completed with the blocks of failed loads")
    return True


def whole_answer(chunks: Any, blocks: Any, blocks_in_chunk: int) -> Any:
    """Return what the server sent for a load; None, "not loaded", where it is less than was asked for.

    Args:
        chunks: One tensor per chunk, or None.
        blocks: Block numbers to load into, one list per group of layers.
        blocks_in_chunk: How many blocks a chunk fills.
    """
    if chunks is None or not is_available():
        return chunks
    needed = max((len(group) for group in blocks), default=0)
    if len(chunks) * blocks_in_chunk >= needed:
        return chunks
    logger.error(
        "LMCache's server sent %d chunks of %d blocks, where %d are needed", len(chunks), blocks_in_chunk, needed
    )
    return None


def _refuse_small_server(adapter: Any, kv_caches: dict[str, Any]) -> None:
    """Compare the memory that the server reported at registration with the longest request."""
    # vLLM's worker registers within the context of its configuration.
    current = getattr(sys.modules.get("vllm.config"), "get_current_vllm_config_or_none", None)
    vllm = current() if current is not None else None
    if vllm is None:
        return
    context = getattr(adapter.transfer_ctx, "_engine_driven_context", None)
    size = int(getattr(context, "_pool_size", 0) or 0)  # only shared memory reports its size
    longest = int(vllm.model_config.max_model_len)
    enough = refuse_small_server(
        size,
        normalise(list(kv_caches.values())).token_bytes,
        chunk=adapter.lmcache_tokens_per_chunk,
        longest=longest,
        ranks=adapter.world_size,
    )
    if size <= 0:
        logger.warning(
            "LMCache's server has not said how much memory it has; one prompt of max_model_len (%d tokens) needs "
            "--l1-size-gb %.2f or more",
            longest,
            enough,
        )


def _loads(adapter: Any) -> FailedLoads | None:
    found: FailedLoads | None = adapter.__dict__.get("gaudi_loads")
    return found


def _wrap(owner: type, name: str, wrapper: Callable[[Any], Any]) -> None:
    original = owner.__dict__.get(name)
    if original is not None:  # releases have different methods
        setattr(owner, name, functools.wraps(original)(wrapper(original)))
