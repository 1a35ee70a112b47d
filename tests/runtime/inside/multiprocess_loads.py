"""Failed loads in multiprocess mode, with a stand-in for LMCache's adapter: before 0.5.5 none supports an HPU there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lmcache.gaudi import server_chunks, watched
from lmcache.gaudi.guards import GaudiError
from lmcache.gaudi.multiprocess import FailedLoads, promise_once, whole_answer, withhold_failed_loads
from support import make_caches

sys.path.append(str(Path(__file__).parents[3] / "gaudi_patch" / "smoke" / "probes" / "_kernel_cases"))
from stand_in import Adapter, Silent

assert FailedLoads  # the runtime has the class that is stood in for


def _op(*blocks: int, skip: int = 0) -> Any:
    return SimpleNamespace(flat_block_ids=list(blocks), skip_first_n_tokens=skip)


def withheld(answer: Any) -> None:
    """Check that a failed load stays unfinished in steps in which its blocks are not requested."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    adapter.submit_retrieve_request("sound", _op(1, 2))
    adapter.answer = answer
    adapter.submit_retrieve_request("failed", _op(3, 4, 5, 6, skip=32))
    assert adapter.get_finished(set()) == (set(), {"sound"})
    assert adapter.get_finished(set()) == (set(), set()), "a step with a forward pass: vllm-gaudi does not ask"
    assert adapter.get_block_ids_with_load_errors() == {4, 5, 6}, "block 3 was vLLM's, and is shared"
    assert adapter.get_finished(set()) == (set(), {"failed"})
    assert adapter.get_finished(set()) == (set(), set())


def ended_while_withheld() -> None:
    """Check that an aborted request is reported once; its blocks are not invalid once another request owns them."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    adapter.answer = False
    adapter.submit_retrieve_request("aborted", _op(3, 4))
    assert adapter.get_finished(set()) == (set(), set())
    assert adapter.get_finished({"aborted"}) == ({"aborted"}, set())
    assert adapter.get_block_ids_with_load_errors() == set()
    assert adapter.get_finished(set()) == (set(), set())


def failed_store() -> None:
    """Check that a store that the server does not answer is dropped: over shared memory LMCache raises TimeoutError."""
    for lazy in (False, True):
        adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
        adapter.lazy_offload, adapter._completed_store_requests, adapter._failed_store_requests = lazy, {}, set()
        adapter.answer = TimeoutError("on purpose")
        adapter.submit_store_request("stored", _op(1, 2))
        assert adapter._completed_store_requests == ({"stored": 1} if lazy else {})
        assert adapter._failed_store_requests == ({"stored"} if lazy else set())
        adapter.answer = True
        adapter.submit_retrieve_request("next", _op(1, 2))
        assert adapter.get_finished(set()) == (set(), {"next"})


def dead_server() -> None:
    """Check that a wait ends once the heartbeat finds the server dead; unregistering waits at most two heartbeats."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    threading.Timer(0.5, lambda: setattr(adapter, "is_healthy", False)).start()
    began = time.monotonic()
    try:
        adapter.req_client.prepare_retrieve("key", 1).result(timeout=300)
    except TimeoutError:
        assert time.monotonic() - began < 100
    else:
        raise AssertionError("a reply came from nowhere")
    adapter.is_healthy = True
    assert adapter.req_client.unregister_kv_cache().wait(300) is False
    assert time.monotonic() - began < 100
    assert isinstance(adapter.req_client.ping(), Silent), "the heartbeat waits by itself"


def server_hangs() -> None:
    """Check that a server that answers only pings does not block the engine for LMCache's 300 s."""
    adapter = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()
    usual, watched._DATA_SECONDS = watched._DATA_SECONDS, 0.5
    began = time.monotonic()
    try:
        assert usual <= 30
        adapter.req_client.prepare_retrieve("key", 1).result(timeout=300)
    except TimeoutError:
        assert time.monotonic() - began < 100
    else:
        raise AssertionError("a reply came from nowhere")
    finally:
        watched._DATA_SECONDS = usual


def small_server() -> None:
    """Check that registration refuses a server too small for one prompt and names a sufficient setting."""
    config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096))
    caches = make_caches(
        "blocks", torch.bfloat16, blocks=8, block_size=16, rows=[(2, 64)] * 4, rng=np.random.default_rng(0)
    ).given
    token = 4 * 2 * 2 * 64 * 2

    def register(pool_size: int | None) -> None:
        def original(self: Any, kv_caches: Any) -> None:
            self.transfer_ctx = SimpleNamespace(_engine_driven_context=SimpleNamespace())
            if pool_size is not None:
                self.transfer_ctx._engine_driven_context._pool_size = pool_size

        names = dict(vars(Adapter)) | {"register_kv_caches": original, "world_size": 2}
        withhold_failed_loads(type("Worker", (Adapter,), names))().register_kv_caches(dict(enumerate(caches)))

    before = sys.modules.get("vllm.config")
    sys.modules["vllm.config"] = SimpleNamespace(get_current_vllm_config_or_none=lambda: config)  # type: ignore[assignment]
    try:
        register(2 * 4096 * token)
        register(None)  # the server has not reported its size: a warning
        try:
            register(2 * 4096 * token - 1)
        except GaudiError as error:
            told = str(error)
            assert "4,032 tokens" in told and "--l1-size-gb 0.02 or more" in told, told
            assert "--max-model-len 4032 or less" in told, told
        else:
            raise AssertionError("a server that holds less than one prompt was taken")
    finally:
        if before is None:
            del sys.modules["vllm.config"]
        else:
            sys.modules["vllm.config"] = before


def chunks_let_go() -> None:
    """Check that each worker keeps what moves its chunks, and lets go of it with its caches, whatever else fails."""

    def broken(self: Any) -> None:
        raise RuntimeError("on purpose")

    def caches() -> dict[int, Any]:
        made = make_caches(
            "blocks", torch.bfloat16, blocks=8, block_size=16, rows=[(2, 64)] * 2, rng=np.random.default_rng(0)
        )
        return dict(enumerate(made.given))

    kind: Any = withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter)) | {"shutdown": broken}))
    kind.pool_size = 1 << 30
    first, second = kind(), kind()
    one, two = caches(), caches()
    before = len(server_chunks._workers)
    first.register_kv_caches(one)
    second.register_kv_caches(two)
    made = [server_chunks.server_chunks(own, 2) for own in (one, two, one, two)]
    assert made[0] is made[2] is first.gaudi_chunks, "made anew at each call"
    assert made[1] is made[3] is second.gaudi_chunks is not made[0]
    first.register_kv_caches(dict(one))
    assert first.gaudi_chunks is made[0], "a server that has come back is no reason to compile"
    first.register_kv_caches(caches())
    assert made[0] not in server_chunks._workers, "the caches of before are kept"
    for adapter in (first, second):
        try:
            adapter.shutdown()
        except RuntimeError:
            continue
        raise AssertionError("LMCache's own error is lost")
    assert len(server_chunks._workers) == before, "caches of a worker that has ended are kept"


def promised_once() -> None:
    """Check that a request whose load failed is not promised the same tokens again."""
    asked: list[str] = []
    kind = type(
        "Scheduler",
        (),
        {
            "__init__": lambda self: setattr(self, "_finished_lookup_results", {"r": 64}),
            "maybe_submit_lookup_request": lambda self, request_id, **given: asked.append(request_id),
            "cleanup_lookup_result": lambda self, request_id: self._finished_lookup_results.pop(request_id, None),
            "end_session": lambda self, request_id: None,
        },
    )
    scheduler: Any = promise_once(kind)()
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    scheduler.cleanup_lookup_result("r")
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    assert asked == ["r"]
    scheduler.end_session("r")
    scheduler.maybe_submit_lookup_request("r", token_ids=[])
    assert asked == ["r", "r"]


def short_answer() -> None:
    assert whole_answer([1, 2], [[1, 2, 3, 4]], 2) == [1, 2]
    assert whole_answer([1], [[1, 2, 3, 4]], 2) is None
    assert whole_answer(None, [[1]], 2) is None


def cases() -> dict[str, Callable[[], None]]:
    """Return the cases by name."""
    found: dict[str, Callable[[], None]] = {}
    for name, answer in (("returns False", False), ("returns None", None), ("raises", RuntimeError("on purpose"))):
        found[f"multiprocess: the server {name}"] = lambda answer=answer: withheld(answer)
    found["multiprocess: the server raises at a store"] = failed_store
    found["multiprocess: the server is short"] = short_answer
    found["multiprocess: start-up: the server's memory is smaller than one prompt"] = small_server
    found["multiprocess: the server dies"] = dead_server
    found["multiprocess: the server hangs"] = server_hangs
    found["multiprocess: a request whose load failed is looked up again"] = promised_once
    found["multiprocess: two workers in one process, and a shutdown that raises"] = chunks_let_go
    found["multiprocess: a request is ended while its failed load is withheld"] = ended_while_withheld
    return found
