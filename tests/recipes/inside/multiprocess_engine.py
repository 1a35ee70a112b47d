"""LMCache's two sides of vLLM in multiprocess mode, on the emulated HPU, over the server started by a recipe.

Reads the same commands as engine.py: ``store SEED``, ``look SEED``. The scheduler's side asks the server for a prompt;
the worker's side stores and loads its blocks.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import zmq

sys.path.insert(0, str(Path(__file__).parents[2] / "runtime" / "inside"))
sys.path.insert(0, str(Path(__file__).parent))  # engine.py next to this file, and the stand-in for vLLM

from engine import BLOCK, CHUNK, TOKENS, fill, is_as_stored, prompt, run, serve, small_caches
from lmcache.integration.vllm.vllm_multi_process_adapter import (
    LMCacheMPSchedulerAdapter,
    LMCacheMPWorkerAdapter,
    LoadStoreOp,
    ParallelStrategy,
)

FIRST, SECOND = list(range(TOKENS // BLOCK)), list(range(TOKENS // BLOCK, 2 * TOKENS // BLOCK))


class Serving:
    """A scheduler and a worker of a small model."""

    def __init__(self, extra: dict[str, Any]) -> None:
        self.caches = small_caches()
        url = f"{extra['lmcache.mp.host']}:{extra['lmcache.mp.port']}"  # as lmcache_mp_connector.py makes it
        one = ParallelStrategy(mla_only=False, vllm_world_size=1, vllm_worker_id=0, tp_size=1, pp_size=1, n_servers=1)
        context = zmq.Context.instance()
        self.scheduler = LMCacheMPSchedulerAdapter([url], context, "tiny", BLOCK, one, extra_config=extra)
        self.worker = LMCacheMPWorkerAdapter(url, context, "tiny", BLOCK, one, extra_config=extra)
        assert self.worker.lmcache_tokens_per_chunk == CHUNK
        layers = {f"layer.{number}": cache for number, cache in enumerate(self.caches.given)}
        self.worker.register_kv_caches(layers, layout_hints={"kv_layout": "NHD"})
        self.requests = itertools.count()

    def context(self) -> str:
        """Return the kind of LMCache's transfers: through mapped memory, or by pickle."""
        return type(self.worker.transfer_ctx.engine_driven_context).__name__

    def store(self, seed: int) -> dict[str, Any]:
        began, name = time.monotonic(), f"store-{next(self.requests)}"
        fill(self.caches, seed, torch.arange(TOKENS))
        self.worker.submit_store_request(name, self._operation(seed, FIRST, TOKENS), self._event())
        self._finished(name, stored=True)
        return {"seconds": time.monotonic() - began}

    def look(self, seed: int) -> dict[str, Any]:
        began, name = time.monotonic(), f"look-{next(self.requests)}"
        self.scheduler.maybe_submit_lookup_request(name, prompt(seed))
        while (promised := self.scheduler.check_lookup_result(name)) is None:
            assert time.monotonic() < began + 60, "the server does not answer"
            time.sleep(0.01)
        self.scheduler.cleanup_lookup_result(name)
        loaded, equal = 0, True
        if promised:
            blocks = SECOND[: promised // BLOCK]
            self.worker.submit_retrieve_request(name, self._operation(seed, blocks, promised), self._event())
            self._finished(name, stored=False)
            loaded = 0 if self.worker.get_block_ids_with_load_errors() else promised
            equal = is_as_stored(self.caches, seed, loaded)
        self.scheduler.end_session(name)
        return {"promised": promised, "loaded": loaded, "equal": equal, "seconds": time.monotonic() - began}

    def _event(self) -> Any:
        return self.worker.create_recorded_event()

    def _operation(self, seed: int, blocks: list[int], tokens: int) -> LoadStoreOp:
        return LoadStoreOp(token_ids=prompt(seed), block_ids=[blocks], start=0, end=tokens)

    def _finished(self, name: str, *, stored: bool) -> None:
        deadline, ended = time.monotonic() + 60, {name} if stored else set()
        while name not in (self.worker.get_finished(ended)[0 if stored else 1] or ()):
            assert time.monotonic() < deadline, f"{name} does not end"
            ended = set()
            time.sleep(0.01)


def main() -> None:
    given = json.loads(sys.argv[sys.argv.index("--kv-transfer-config") + 1])
    assert given["kv_connector"] == "LMCacheMPConnector"
    serving = Serving(given["kv_connector_extra_config"])
    serve(serving, {"transfers": serving.context(), "arguments": sys.argv[1:]})


if __name__ == "__main__":
    run(main)
