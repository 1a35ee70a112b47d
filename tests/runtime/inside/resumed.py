"""Check that a patched release skips the lookup for requests that vllm-gaudi answers wrongly after a hit.

``resumed.py [in-process|multiprocess]`` runs the real adapter over a stand-in for vLLM, with the HPU reported as
present. It prints ``nothing promised`` if each such request is neither looked up nor promised anything, and an
ordinary request is looked up.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import identities
from lmcache.gaudi import adapter
from lmcache.gaudi.guards import GaudiError

ORDINARY = {"num_output_tokens": 0, "skip_reading_prefix_cache": False}
COMPUTED = {
    "it has outputs, so it was preempted": ORDINARY | {"num_output_tokens": 3},
    "it needs every token computed": ORDINARY | {"skip_reading_prefix_cache": True},
}


def check(answer: Callable[[dict[str, Any]], tuple[bool, int]]) -> None:
    """Ask about every kind of request. ``answer`` returns if the request was looked up, and its promised tokens."""
    adapter.is_available = lambda: False
    for what in (ORDINARY, *COMPUTED.values()):
        assert answer(what)[0], "without an HPU every request is looked up"
    adapter.is_available = lambda: True
    assert answer(ORDINARY)[0], "an ordinary request is not looked up"
    for why, what in COMPUTED.items():
        assert answer(what) == (False, 0), f"looked up, or promised something, though {why}"


def in_process() -> None:
    module = importlib.import_module("lmcache.integration.vllm.vllm_v1_adapter")

    def answer(what: dict[str, Any]) -> tuple[bool, int]:
        side = identities.scheduler(module)
        one = identities.request(1, what)
        found = side.get_num_new_matched_tokens(one, 0)
        asked = side.lookup_client.last is not None
        if not asked:  # LMCache asserts that a resumed request has one
            spec = side.load_specs[one.request_id]
            assert (spec.lmcache_cached_tokens, spec.can_load) == (0, False)
        return asked, found

    check(answer)
    assert adapter.loads_without_attention_metadata()
    preempted_in_its_prefill(module)


def preempted_in_its_prefill(module: Any) -> None:
    """Check a request scheduled before, without outputs: no load in a release that loads only for new requests.

    Such a release (0.3.7) continues from its notes made before the preemption. They must be gone, or it stores the
    contents of blocks that belong to other requests.
    """
    side = identities.scheduler(module)
    one = identities.request(1, ORDINARY)
    tracker = SimpleNamespace(token_ids=[1, 2, 3, 4], allocated_block_ids=[7])
    side._request_trackers[one.request_id] = tracker
    source = inspect.getsource(module)
    loads = "resumed_from_preemption" in source or "is_resumed" in source
    promised = side.get_num_new_matched_tokens(one, 0)
    if loads:
        assert tracker.allocated_block_ids == [7], "the release resets it itself"
        return
    assert (promised, side.load_specs) == (0, {})
    assert side.lookup_client.last is None
    assert (tracker.token_ids, tracker.allocated_block_ids) == ([], [])


def multiprocess() -> None:
    module = importlib.import_module("lmcache.integration.vllm.lmcache_mp_connector")
    module.KVConnectorRole = MagicMock(SCHEDULER="scheduler")
    kind = module.LMCacheMPConnector

    def side() -> Any:
        made = object.__new__(kind)
        server = MagicMock(lmcache_tokens_per_chunk=4)
        server.check_lookup_result.return_value = 0
        made.__dict__.update(
            _role="scheduler",
            request_trackers={},
            scheduler_adapter=server,
            lazy_offload=False,
            _eager_prefetch=True,
            _connector_stats=MagicMock(),
            _hit_alignment_tokens=4,
            _reserve_last_token_for_lookup=False,
        )
        return made

    def request(what: dict[str, Any]) -> Any:
        return identities.request(1, {"status": "waiting", "resumable": False} | what)

    def answer(what: dict[str, Any]) -> tuple[bool, int]:
        made = side()
        found, _ = made.get_num_new_matched_tokens(request(what), 0)
        return made.scheduler_adapter.maybe_submit_lookup_request.called, found

    def looked_up_early(what: dict[str, Any]) -> tuple[bool, int]:
        made = side()
        made.on_new_request(request(what))
        return made.scheduler_adapter.maybe_submit_lookup_request.called, 0

    check(answer)
    check(looked_up_early)
    worker = importlib.import_module("lmcache.integration.vllm.vllm_multi_process_adapter").LMCacheMPWorkerAdapter
    taken = object.__new__(worker)
    taken.kv_caches = {"layer": object()}
    reason = ""
    try:
        taken.register_kv_caches({"layer": object()}, [])
    except GaudiError as error:
        reason = str(error)
    assert "restart vLLM" in reason, "the worker does not ask whether it may take the caches"


def main(mode: str) -> int:
    try:
        {"in-process": in_process, "multiprocess": multiprocess}[mode]()
    except Exception:
        traceback.print_exc()
        return 1
    print("nothing promised", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
