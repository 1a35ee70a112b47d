"""Requests that differ only in LoRA adapter or cache salt: what LMCache has cached for them."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
else:  # run by path, beside this file
    import _probe
    from _kv import lmcache as kv_lmcache

_NUMBERS = itertools.count()


def generate(engine: vllm_engine.Engine, tokens: Sequence[int], salt: str) -> int:
    """Continue a prompt under a cache salt (none if empty); return the number of tokens that LMCache had."""
    prompt: dict[str, object] = {"prompt_token_ids": list(tokens)}
    return engine.generate_from([prompt | ({"cache_salt": salt} if salt else {})], 1)[0].external


def plain_request(tokens: Sequence[int], adapter: str | None = None, *, logprobs: bool = False) -> Foreign:
    """Return a request of vLLM's scheduler with a name of its own, which nobody has given to an engine.

    adapter: the name of its LoRA adapter. logprobs: it wants the log probabilities of its prompt.
    """
    request_type = _probe.load("vllm.v1.request").Request
    lora = _probe.load("vllm.lora.request").LoRARequest
    name = f"identity-{next(_NUMBERS)}"
    sampling = _probe.load("vllm").SamplingParams(max_tokens=1, **({"prompt_logprobs": 0} if logprobs else {}))
    values: dict[str, object] = {
        "request_id": name,
        "prompt_token_ids": list(tokens),
        "sampling_params": sampling,
        "pooling_params": None,
        "eos_token_id": None,
        "arrival_time": 0.0,
        "lora_request": lora(adapter, 1 + next(_NUMBERS), f"/adapters/{adapter}") if adapter else None,
    }
    known = inspect.signature(request_type.__init__).parameters
    return request_type(**{key: value for key, value in values.items() if key in known})


def check_multiprocess_keys(probe: _probe.Probe) -> None:
    """Check that LMCache's multiprocess mode tells adapters apart, if the release serves an HPU."""
    if kv_lmcache.release() < (0, 5, 5):
        return
    kind = _probe.load("lmcache.integration.vllm.lmcache_mp_metadata").LMCacheMPRequestTracker
    found = [kind(plain_request([1, 2, 3], adapter)).cache_salt for adapter in (None, "a", "b")]
    probe.check(found[0] == "", f"a request of no adapter has the salt {found[0]!r}: hosts without HPU have none")
    probe.check(len(set(found)) == len(found), f"adapters have one another's salts: {found}")


def check_multiprocess_lookups(probe: _probe.Probe) -> None:
    """A request that must be computed is not looked up, neither when it comes nor when it is scheduled."""
    if kv_lmcache.release() < (0, 5, 5):
        return
    module = _probe.load("lmcache.integration.vllm.lmcache_mp_connector")
    asked: list[str] = []
    tracker = SimpleNamespace(
        state=None, lookup_started_at=None, get_token_ids=list, cache_salt="", request_configs=None
    )
    connector = object.__new__(module.LMCacheMPConnector)
    vars(connector).update(
        _role=module.KVConnectorRole.SCHEDULER,
        _eager_prefetch=True,
        _reserve_last_token_for_lookup=False,
        _get_or_create_request_tracker=lambda request: tracker,
        scheduler_adapter=SimpleNamespace(
            maybe_submit_lookup_request=lambda name, **more: asked.append(name), check_lookup_result=lambda name: None
        ),
    )
    resumed = plain_request([1, 2, 3])
    resumed.append_output_token_ids([4])
    for what, request, looked_up in (
        ("a new request", plain_request([1, 2, 3]), True),
        ("a resumed request", resumed, False),
        ("log probabilities of the prompt", plain_request([1, 2, 3], logprobs=True), False),
    ):
        asks: list[Callable[[], object]] = [lambda: connector.get_num_new_matched_tokens(request, 0)]  # noqa: B023 - called at once
        if hasattr(module.LMCacheMPConnector, "on_new_request"):
            asks.append(lambda: connector.on_new_request(request))  # noqa: B023 - called at once
        for ask in asks:
            asked.clear()
            ask()
            probe.check(bool(asked) is looked_up, f"{what} is {'' if asked else 'not '}looked up")


def check_reused_id(probe: _probe.Probe, engine: vllm_engine.Engine) -> None:
    """Check that an id which is resubmitted in the step that ends it, as vLLM allows, is the new request's."""
    side = engine.scheduler.connector._lmcache_engine
    request = plain_request([1, 2, 3], "reused")
    name = request.request_id
    new = SimpleNamespace(
        req_id=name,
        prompt_token_ids=[1, 2, 3],
        sampling_params=request.sampling_params,
        block_ids=([0],),
        num_computed_tokens=0,
        mm_features=[],
        mm_hashes=[],
        mm_positions=[],
        mm_kwargs=[],
    )
    step = SimpleNamespace(
        finished_req_ids={name},
        scheduled_new_reqs=[new],
        scheduled_cached_reqs=SimpleNamespace(req_ids=[], new_block_ids=[]),
        num_scheduled_tokens={name: 3},
    )
    side.update_state_after_alloc(request, 0)
    try:
        side.build_connector_meta(step)
        probe.check(name in side._unfinished_requests, "the new request is forgotten; its next step ends the engine")
    except Exception as error:
        probe.fail(f"the scheduler is ended by {_probe.describe(error)}")
    finally:
        side._request_trackers.pop(name, None)
        side._unfinished_requests.pop(name, None)


def offered(engine: vllm_engine.Engine, tokens: Sequence[int], adapter: str | None, *, logprobs: bool = False) -> int:
    """Ask LMCache's scheduler side what it has for a request with a LoRA adapter; the request goes no further.

    The engine has no adapter loaded, and needs none for the question. logprobs: as for plain_request.
    """
    request = plain_request(tokens, adapter, logprobs=logprobs)
    name = request.request_id
    scheduler = engine.scheduler.connector
    answer = scheduler.get_num_new_matched_tokens(request, 0)
    side = scheduler._lmcache_engine
    side.load_specs.pop(name, None)
    side.lookup_client.clear_lookup_status(name)
    found = answer[0] if isinstance(answer, tuple) else answer
    return int(found or 0)


@contextlib.contextmanager
def without_identities(engine: vllm_engine.Engine) -> Iterator[None]:
    """Inject a fault as a control: keys in the block depend only on tokens, as in unpatched LMCache."""
    adapter = _probe.load(type(engine.scheduler.connector._lmcache_engine).__module__)
    runtime = getattr(adapter, "gaudi", None)
    if runtime is None or not hasattr(runtime, "tag_identity"):
        yield
        return
    original = runtime.tag_identity
    runtime.tag_identity = lambda request, configs: configs
    try:
        yield
    finally:
        runtime.tag_identity = original
