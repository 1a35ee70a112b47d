"""The counters of a vLLM server, read from the text of its /metrics."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

#: Tokens looked up and found in a KV connector, here LMCache, by vLLM's own count (vllm/v1/metrics/loggers.py).
ASKED, HITS = "vllm:external_prefix_cache_queries_total", "vllm:external_prefix_cache_hits_total"
#: Tokens found in vLLM's own prefix cache, tokens of all prompts, and running and waiting requests.
OWN_HITS, PROMPTS = "vllm:prefix_cache_hits_total", "vllm:prompt_tokens_total"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)(?:\s+-?\d+)?\s*")


class Counters(NamedTuple):
    """Sums over all engines of a server; None for a counter that it does not have."""

    asked: int | None
    hits: int | None
    own_hits: int | None
    prompts: int | None
    busy: int


def read(text: str) -> Counters:
    """Parse the counters of a page of metrics (Prometheus text format)."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if (found := _SAMPLE.fullmatch(line)) and (value := _number(found[2])) is not None:
            sums[found[1]] = sums.get(found[1], 0.0) + value
    whole = {name: round(value) for name, value in sums.items()}
    busy = whole.get(RUNNING, 0) + whole.get(WAITING, 0)
    return Counters(whole.get(ASKED), whole.get(HITS), whole.get(OWN_HITS), whole.get(PROMPTS), busy)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
