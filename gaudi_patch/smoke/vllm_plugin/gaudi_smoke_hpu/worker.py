# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""The worker, which the engine calls in each process that has a device.

Mirrors ``vllm_gaudi/v1/worker/hpu_worker.py`` (v0.26.0): the device is ``hpu`` without an index, the process group is
``hccl``, the connector is created before the caches, which are registered with it afterwards.
"""

from __future__ import annotations

import inspect

import torch
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.distributed.kv_transfer import has_kv_transfer_group, kv_transfer_state
from vllm.v1.worker.worker_base import WorkerBase

from .foreign import Foreign
from .runner import Runner

# Bytes that one process may use for KV blocks; the check itself sets the number of blocks.
CACHE_BYTES = 1 << 30


def accepted(function: Foreign, **options: Foreign) -> dict[str, Foreign]:
    """Return those of ``options`` that ``function`` accepts: releases of vLLM differ in them."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


class SmokeWorker(WorkerBase):
    """One rank of the engine."""

    def init_device(self) -> None:
        """Join the process group (hccl; gloo on the emulated HPU) and prepare the runner."""
        self.device = torch.device("hpu")
        world = self.parallel_config.world_size
        init_distributed_environment(world, self.rank, self.distributed_init_method, self.local_rank, backend="hccl")
        ensure_model_parallel_initialized(
            self.parallel_config.tensor_parallel_size, self.parallel_config.pipeline_parallel_size
        )
        self.model_runner = Runner(self.vllm_config, self.rank, world)

    def load_model(self, **options: Foreign) -> None:
        """Build or load the weights."""
        self.model_runner.load_model()

    def get_kv_cache_spec(self) -> dict[str, Foreign]:
        """Return a full-attention specification by layer name."""
        return self.model_runner.kv_cache_spec()

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """Return the layout layer, block, token; vLLM asks from 0.32 on (vllm-gaudi has no release for it)."""
        return ["LBNHC"]

    def determine_available_memory(self) -> int:
        """Return a fixed budget: nothing is profiled."""
        return CACHE_BYTES

    def initialize_cache(self, num_gpu_blocks: int, num_cpu_blocks: int = 0) -> None:
        """Note the number of blocks, as vLLM's workers do."""
        self.cache_config.num_gpu_blocks = num_gpu_blocks
        self.cache_config.num_cpu_blocks = num_cpu_blocks

    def initialize_from_config(self, kv_cache_config: Foreign) -> None:
        """Create the connector, then the caches, then register the caches with the connector."""
        initialize = kv_transfer_state.ensure_kv_transfer_initialized
        initialize(self.vllm_config, **accepted(initialize, kv_cache_config=kv_cache_config))
        self.model_runner.initialize_kv_cache(kv_cache_config)
        torch.hpu.synchronize()

    def compile_or_warm_up_model(self) -> Foreign:
        """Compile nothing; later releases expect the time taken, in seconds."""
        try:
            from vllm.v1.worker.worker_base import CompilationTimes
        except ImportError:  # one number from about 0.17, nothing before
            return 0.0
        return CompilationTimes(language_model=0.0, encoder=0.0)

    @torch.inference_mode()
    def execute_model(self, scheduler_output: Foreign, *arguments: Foreign) -> Foreign:
        """Run one step; every rank returns its output, as the connectors' aggregation needs."""
        return self.model_runner.execute_model(scheduler_output)

    def get_model(self) -> Foreign:
        """Return the model."""
        return self.model_runner.model

    def get_supported_tasks(self) -> tuple[str, ...]:
        """Return the only task: text generation."""
        return ("generate",)

    def get_kv_connector_handshake_metadata(self) -> dict[Foreign, Foreign] | None:
        """Return None: the LMCache connectors exchange nothing between workers."""
        return None

    def update_max_model_len(self, max_model_len: int) -> None:
        """Update the maximum length, which vLLM may shorten to fit the cache."""
        self.model_config.max_model_len = max_model_len

    def lmcache_problem(self) -> str:
        """Return why LMCache does not work on this rank; "" if it does.

        The check calls it through ``collective_rpc``.
        """
        if not has_kv_transfer_group():
            return "this rank has no KV connector"
        connector = kv_transfer_state.get_kv_transfer_group()
        inner = getattr(connector, "_lmcache_engine", None)
        if inner is None:  # the multiprocess connector
            return ""
        engine = getattr(inner, "lmcache_engine", None)
        return "" if engine is not None else "LMCache has no engine on this rank (degraded mode)"

    def shutdown(self) -> None:
        """Close the connector, and with it LMCache."""
        close = getattr(kv_transfer_state, "ensure_kv_transfer_shutdown", None)  # from 0.11
        if close is not None:
            close()
        elif has_kv_transfer_group():
            kv_transfer_state.get_kv_transfer_group().shutdown()

    def take_draft_token_ids(self) -> None:
        """Return None: no speculation."""

    def check_health(self) -> None:
        """Do nothing: the worker is alive."""

    def execute_dummy_batch(self) -> None:
        """Do nothing: there is no data parallelism."""
