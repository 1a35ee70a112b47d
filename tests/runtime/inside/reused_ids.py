"""Check the scheduler's side of a patched release with request ids that are used again, and with a long wait.

vLLM allows that a request is aborted and resubmitted with its id before the next step. The script runs the real adapter
over a stand-in for vLLM, and prints ``the engine goes on`` if this does not end it, nor a promise that has become old,
nor settings that a client has sent along.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import identities
from lmcache.gaudi import adapter

PLAIN = {"num_output_tokens": 0, "skip_reading_prefix_cache": False}


class Answers(identities.Lookups):
    """LMCache's client of lookups as its releases have it: it keeps an answer until its request is scheduled."""

    def __init__(self, nothing: int, found: int) -> None:
        super().__init__(nothing)
        self.found, self.asked = found, 0
        self.kept: dict[str, int] = {}

    def lookup(self, token_ids: Any, lookup_id: str, request_configs: Any = None, **others: Any) -> int:
        # From 0.3.9 to 0.3.11 it keeps answers in here; 0.3.7 keeps none, and asks under another id each time.
        if lookup_id not in self.kept:
            self.asked += 1
            self.kept[lookup_id] = self.found
        return self.kept[lookup_id]

    def lookup_cache(self, lookup_id: str) -> int:
        return self.kept.get(lookup_id, self.nothing)

    def clear_lookup_status(self, lookup_id: str) -> None:
        self.kept.pop(lookup_id, None)


def scheduler(module: Any, found: int = 0) -> tuple[Any, Answers]:
    """Return a scheduler's side whose lookups find ``found`` tokens, and its client."""
    made = identities.scheduler(module)
    client = Answers(made.lookup_client.nothing, found)
    made._manager.lookup_client = client
    if "lookup_client" in made.__dict__:
        made.lookup_client = client
    made.config.pin_timeout_sec = 300
    return made, client


def step(ended: set[str], new: list[Any], cached: list[Any], tokens: int) -> Any:
    names = [one.request_id for one in (*new, *cached)]
    return SimpleNamespace(
        finished_req_ids=ended,
        scheduled_new_reqs=new,
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[one.request_id for one in cached],
            new_block_ids=[None for _ in cached],
            new_token_ids=[[7] for _ in cached],
            resumed_req_ids=set(),
            resumed_from_preemption=[False for _ in cached],
            num_computed_tokens=[one.num_computed_tokens for one in cached],
        ),
        num_scheduled_tokens=dict.fromkeys(names, tokens),
    )


def resubmitted_in_the_step_that_ends_it(module: Any) -> None:
    """Check that the new request is stored under its own identity, and that its next step finds it."""
    side, _ = scheduler(module)
    first = identities.request(1, PLAIN)
    side.get_num_new_matched_tokens(first, 0)
    side.update_state_after_alloc(first, 0)
    side.build_connector_meta(step(set(), [first], [], len(identities.PROMPT)))
    again = identities.request(1, PLAIN | {"lora_request": identities.adapter("a")})
    side.get_num_new_matched_tokens(again, 0)
    side.update_state_after_alloc(again, 0)
    (stored,) = side.build_connector_meta(step({"r1"}, [again], [], len(identities.PROMPT))).requests
    assert stored.request_configs == adapter.tag_identity(again, None), "stored under the ended request's identity"
    again.num_computed_tokens = len(identities.PROMPT)
    again.all_token_ids = [*again.all_token_ids, 7]
    side.build_connector_meta(step(set(), [], [again], 1))
    side.build_connector_meta(step({"r1"}, [], [], 0))
    assert not side._unfinished_requests and not side._request_trackers, "the ended request is kept"


def another_request_of_this_id_waited(module: Any) -> None:
    """Check that no answer for an aborted request is given to another one with its id, which has other tokens."""
    side, client = scheduler(module, found=8)
    side.get_num_new_matched_tokens(identities.request(1, PLAIN), 0)
    client.found = 4
    assert side.get_num_new_matched_tokens(identities.request(1, PLAIN), 0) == 4, "promised what another one had"


def a_promise_that_becomes_old(module: Any) -> None:
    """Check that a request which waits for blocks is looked up again before LMCache's memory for it is released."""
    side, client = scheduler(module, found=8)
    if "uuid4" in module.LMCacheConnectorV1Impl.get_num_new_matched_tokens.__code__.co_names:
        return  # 0.3.7 asks in every step
    waits = identities.request(1, PLAIN)
    now = 1000.0
    adapter.time = SimpleNamespace(monotonic=lambda: now)
    for now, asked in ((1000.0, 1), (1001.0, 1), (1149.0, 1), (1151.0, 2), (1299.0, 2), (1302.0, 3)):
        assert side.get_num_new_matched_tokens(waits, 0) == 8
        assert client.asked == asked, f"asked {client.asked} times in {now - 1000} s"
    # A prefetch of asynchronous loading holds its memory until its load; asking twice would prefetch twice.
    side.__dict__["async_loading"] = True
    now = 5000.0
    side.get_num_new_matched_tokens(waits, 0)
    assert client.asked == 3


def settings_that_only_a_proxy_may_set(module: Any) -> None:
    """Check that a client's settings of disaggregated serving end nothing, and that its proxy's are kept."""
    decoder = {"req_id": "r1", "receiver_host": "h", "receiver_init_port": [1], "receiver_alloc_port": [2]}
    both = {"ret_first_tok": True, "disagg_spec": decoder, "another": 1}
    for prefiller, given, kept in (
        (False, both, {"another"}),
        (False, {"disagg_spec": {}}, set()),
        (True, both, {*both}),
        (True, both | {"disagg_spec": {}}, {"ret_first_tok", "another"}),
        (True, both | {"disagg_spec": decoder | {"receiver_host": None}}, {"ret_first_tok", "another"}),
    ):
        side, _ = scheduler(module)
        side.config.enable_pd = prefiller
        side.config.get_extra_config_value = lambda name, default: default
        outputs = [7] if prefiller else []  # of an abort before the first token
        sent = {"kv_transfer_params": {**given}, "_output_token_ids": outputs, "status": None}
        one = identities.request(1, PLAIN | sent)
        side.get_num_new_matched_tokens(one, 0)
        side.update_state_after_alloc(one, 0)
        assert {*one.kv_transfer_params} == kept, one.kv_transfer_params
        side.request_finished(one, [])
        assert (module.tmp_disagg_tracker.pop("r1", None) is not None) == ("disagg_spec" in kept)


def main() -> None:
    module = importlib.import_module("lmcache.integration.vllm.vllm_v1_adapter")
    for available in (False, True):
        adapter.is_available = lambda available=available: available
        resubmitted_in_the_step_that_ends_it(module)
    another_request_of_this_id_waited(module)
    a_promise_that_becomes_old(module)
    settings_that_only_a_proxy_may_set(module)
    print("the engine goes on")


if __name__ == "__main__":
    main()
