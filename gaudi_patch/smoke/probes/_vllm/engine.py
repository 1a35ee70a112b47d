"""A vLLM engine with LMCache in this process: create it, query it, and close it completely."""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import dataclasses
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, beside this file
    import _probe

    from _vllm import setup as vllm_setup


#: The configuration of LMCache within a MultiConnector.
MULTI_CONNECTOR: Foreign = {
    "connector": "MultiConnector",
    "extra": {"connectors": [{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}]},
}


class Errors:
    """The first lines that LMCache logged as errors: it often logs and continues instead of failing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        make = logging.getLogRecordFactory()

        def watch(*arguments: Foreign, **options: Foreign) -> logging.LogRecord:
            record = make(*arguments, **options)
            about_metrics = "PrometheusLogger" in str(record.msg)  # both roles run in one process: harmless
            if record.levelno >= logging.ERROR and record.name.startswith("lmcache") and not about_metrics:
                lines = [line for line in record.getMessage().strip().splitlines() if line.strip()]
                self.lines.append(" … ".join(dict.fromkeys([lines[0], lines[-1]]))[:400] if lines else "")
            return record

        logging.setLogRecordFactory(watch)

    @property
    def first(self) -> str:
        """Return LMCache's first error, to append to a failure; "" if there is none."""
        return f" (LMCache logged: {self.lines[0]})" if self.lines else ""


@dataclasses.dataclass
class Answer:
    """An answer of the engine.

    tokens: the generated tokens. prompt: the prompt's length. local, external: prompt tokens that vLLM and the
    connector reported as cached, at the request's first scheduling. output: vLLM's own number of cached tokens.
    """

    tokens: list[int]
    prompt: int
    local: int
    external: int
    output: int | None


def _recompute(kind: type) -> dict[str, str]:
    """Return vLLM's setting to recompute failed loads, if it has one; by default the request fails."""
    known = {field.name for field in dataclasses.fields(kind)}
    return {"kv_load_failure_policy": "recompute"} if "kv_load_failure_policy" in known else {}


class Engine:
    """``LLM`` with a KV connector.

    directory: the checkpoint. model: ``llama`` or ``pattern`` (own platform only). blocks: the number of KV blocks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: str = "llama",
        dtype: str = "float32",
        blocks: int = 96,
        prefix_caching: bool = True,
        connector: str = "LMCacheConnectorV1",
        extra: dict[str, object] | None = None,
        ranks: int = 1,
        batched_tokens: int = 512,
        requests: int = 4,
    ) -> None:
        started = time.monotonic()
        vllm = _probe.load("vllm")
        config = _probe.load("vllm.config")
        engine_args = _probe.load("vllm.engine.arg_utils").EngineArgs
        options: dict[str, object] = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "dtype": dtype,
            "enforce_eager": True,
            "max_model_len": vllm_setup.max_model_len(),
            "max_num_seqs": requests,
            "max_num_batched_tokens": vllm_setup.batched_tokens(batched_tokens),
            "enable_chunked_prefill": True,
            "enable_prefix_caching": prefix_caching and vllm_setup.prefix_caching(),
            "block_size": vllm_setup.block_size(),
            "kv_cache_dtype": vllm_setup.engine_options().kv_cache_dtype,
            "num_gpu_blocks_override": blocks,
            "tensor_parallel_size": ranks,
            "disable_log_stats": True,
            "async_scheduling": False,
            "additional_config": {} if model == "llama" else {"smoke_model": model},
            "seed": 0,
            "kv_transfer_config": config.KVTransferConfig(
                kv_connector=connector,
                kv_role="kv_both",
                kv_connector_extra_config=extra or {},
                **_recompute(config.KVTransferConfig),
            ),
        }
        if ranks > 1:
            options["distributed_executor_backend"] = "mp"
        known = {field.name for field in dataclasses.fields(engine_args)}
        self.llm = vllm.LLM(**{name: value for name, value in options.items() if name in known})
        self._sampling = vllm.SamplingParams
        self._lookups: dict[str, list[tuple[int, int]]] = {}
        self._lookups_off = False
        # Tokens promised by the connector to requests that already had outputs, and so were preempted.
        self.promised_to_resumed: list[int] = []
        self.scheduler.connector.get_num_new_matched_tokens = self._watch(
            self.scheduler.connector.get_num_new_matched_tokens
        )
        self.seconds_to_start = time.monotonic() - started

    @property
    def core(self) -> Foreign:
        """Return vLLM's EngineCore, which runs in this process."""
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> Foreign:
        """Return vLLM's scheduler."""
        return self.core.scheduler

    @property
    def runner(self) -> Foreign:
        """Return the model runner of the only rank."""
        worker = self.core.model_executor.driver_worker
        return getattr(worker, "worker", worker).model_runner

    @property
    def adapter(self) -> Foreign:
        """Return LMCache's worker-side adapter in this process."""
        return worker_adapter()

    @property
    def saves_tails(self) -> bool:
        """Return whether LMCache stores a partial last chunk, as it does by default up to 0.3.10.post2."""
        connector = _lmcache_connector(self.scheduler.connector)
        return bool(getattr(connector._lmcache_engine.config, "save_unfull_chunk", False))

    def problems(self) -> list[str]:
        """Return why LMCache does not work, per rank; empty if it does."""
        if vllm_setup.uses_vllm_gaudi():  # the workers cannot be asked; the hits will show it
            return []
        return [text for text in self.llm.collective_rpc("lmcache_problem") if text]

    def generate(self, prompts: Sequence[Sequence[int]], count: int = 8) -> list[Answer]:
        """Continue each prompt greedily by ``count`` tokens; all prompts are submitted at once."""
        return self.generate_from([{"prompt_token_ids": list(prompt)} for prompt in prompts], count)

    def generate_from(self, inputs: Sequence[dict[str, object]], count: int) -> list[Answer]:
        """Continue each vLLM input greedily by ``count`` tokens."""
        sampling = self._sampling(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
        self._lookups.clear()
        self.promised_to_resumed.clear()
        answers = []
        for output in self.llm.generate(list(inputs), sampling, use_tqdm=False):
            seen = [entry for name, entry in self._lookups.items() if name.split("-")[0] == output.request_id]
            local, external = seen[0][0] if seen else (0, 0)
            tokens = [int(token) for token in output.outputs[0].token_ids]
            answers.append(Answer(tokens, len(output.prompt_token_ids), local, external, output.num_cached_tokens))
        return answers

    def forget_prefixes(self) -> None:
        """Empty vLLM's own prefix cache, so that only LMCache can serve the next request."""
        deadline = time.monotonic() + 60
        while self.llm.reset_prefix_cache() is False:
            # A connector that stores in the background releases blocks in a later step.
            if time.monotonic() > deadline:
                raise RuntimeError("vLLM did not reset its prefix cache: a request still holds blocks after 60 s")
            self._empty_step()
            time.sleep(0.05)

    def overwrite_caches(self) -> None:
        """Fill all KV caches with ones, so that no block has KV of an earlier request. No request may be running."""
        caches = self.runner.kv_caches
        torch = _probe.load("torch")
        with torch.inference_mode():
            for cache in caches.values() if isinstance(caches, dict) else caches:
                for tensor in [cache] if isinstance(cache, torch.Tensor) else cache:
                    if isinstance(tensor, torch.Tensor):
                        tensor.fill_(1)
        torch.hpu.synchronize()

    def _empty_step(self) -> None:
        """Run a step without requests, in which the connector is asked what has finished."""
        order = self.scheduler.schedule()
        output = self.core.model_executor.execute_model(order)
        self.scheduler.update_from_output(order, output)

    def hot_cache(self) -> dict[Foreign, Foreign]:
        """Return LMCache's objects in host memory, by key."""
        backends = self.adapter.lmcache_engine.storage_manager.storage_backends
        return dict(backends["LocalCPUBackend"].hot_cache)

    def close(self) -> None:
        """Shut engine, connector (both roles) and LMCache down."""
        core, connector = self.core, self.scheduler.connector
        # vLLM empties PyTorch's caching allocators at the end. The HPU has none, and the calls raise or crash.
        accelerator = _probe.load("torch").accelerator
        for name in ("empty_cache", "empty_host_cache"):
            if hasattr(accelerator, name):
                setattr(accelerator, name, lambda: None)
        core.shutdown()
        if "connector" not in inspect.getsource(type(self.scheduler).shutdown):  # vLLM before 0.11
            connector.shutdown()
        state = _probe.load("vllm.distributed.kv_transfer.kv_transfer_state")
        if state.has_kv_transfer_group():
            state.ensure_kv_transfer_shutdown()
        builder = _probe.load("lmcache.v1.cache_engine").LMCacheEngineBuilder
        for name in list(builder._instances):
            builder.destroy(name)

    @contextlib.contextmanager
    def without_lookups(self) -> Iterator[None]:
        """Stop the connector from serving requests in the block: only vLLM's own prefix cache may."""
        self._lookups_off = True
        try:
            yield
        finally:
            self._lookups_off = False

    def _watch(self, ask: Foreign) -> Foreign:
        # vLLM's connector for LMCache's multiprocess mode starts tracking a request when it is asked about it.
        track = getattr(getattr(ask, "__self__", None), "_get_or_create_request_tracker", None)

        def matched(request: Foreign, computed: int) -> Foreign:
            if self._lookups_off:
                if track is not None:
                    track(request)
                self._lookups.setdefault(request.request_id, []).append((computed, 0))
                return 0, False
            answer = ask(request, computed)
            found = answer[0] if isinstance(answer, tuple) else answer
            if found is not None:  # None: ask again later
                if request.num_output_tokens:
                    self.promised_to_resumed.append(int(found))
                self._lookups.setdefault(request.request_id, []).append((computed, int(found)))
            return answer

        return matched


def hands_caches_over_at_start() -> bool:
    """Return whether its connector for LMCache passes ``register_kv_caches`` on (0.17.1 does, 0.13.0 does not)."""
    module = _probe.load("vllm.distributed.kv_transfer.kv_connector.v1.lmcache_connector")
    return "register_kv_caches" in vars(module.LMCacheConnectorV1)


def worker_adapter() -> Foreign:
    """Return LMCache's worker-side adapter in this process, which may be a worker's own."""
    state = _probe.load("vllm.distributed.kv_transfer.kv_transfer_state")
    return _lmcache_connector(state.get_kv_transfer_group())._lmcache_engine


def _lmcache_connector(connector: Foreign) -> Foreign:
    """Return LMCache's connector: the given one, or the first LMCache connector of a MultiConnector."""
    for part in getattr(connector, "_connectors", ()):
        if hasattr(part, "_lmcache_engine"):
            return part
    return connector


def run(level: str, body: Callable[[_probe.Probe], None]) -> None:
    """Run a case as a probe. A failed case may leave an engine whose threads would keep the process alive."""
    try:
        _probe.main(level, body)
    except SystemExit as ending:
        if ending.code != _probe.EXIT["passed"]:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ending.code if isinstance(ending.code, int) else 1)
        raise


def threads_left() -> list[str]:
    """Return the names of threads that keep the process alive (not an executor's, which the interpreter ends)."""
    pooled: Foreign = concurrent.futures.thread._threads_queues
    deadline = time.monotonic() + 5.0
    while True:
        left = [
            thread.name
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread() and thread not in pooled
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)
