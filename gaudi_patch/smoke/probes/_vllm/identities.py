"""Requests that differ only in LoRA adapter or cache salt: what LMCache has cached for them."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
else:  # run by path, beside this file
    import _probe

_NUMBERS = itertools.count()


def generate(engine: vllm_engine.Engine, tokens: Sequence[int], salt: str) -> int:
    """Continue a prompt under a cache salt (none if empty); return the number of tokens that LMCache had."""
    prompt: dict[str, object] = {"prompt_token_ids": list(tokens)}
    return engine.generate_from([prompt | ({"cache_salt": salt} if salt else {})], 1)[0].external


def offered(engine: vllm_engine.Engine, tokens: Sequence[int], adapter: str | None) -> int:
    """Ask LMCache's scheduler side about a request with a LoRA adapter, without running the request.

    The engine has no adapter loaded and does not need one for this.
    """
    request_type = _probe.load("vllm.v1.request").Request
    lora = _probe.load("vllm.lora.request").LoRARequest
    name = f"identity-{next(_NUMBERS)}"
    values: dict[str, object] = {
        "request_id": name,
        "prompt_token_ids": list(tokens),
        "sampling_params": _probe.load("vllm").SamplingParams(max_tokens=1),
        "pooling_params": None,
        "eos_token_id": None,
        "arrival_time": 0.0,
        "lora_request": lora(adapter, 1 + next(_NUMBERS), f"/adapters/{adapter}") if adapter else None,
    }
    known = inspect.signature(request_type.__init__).parameters
    request = request_type(**{key: value for key, value in values.items() if key in known})
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
