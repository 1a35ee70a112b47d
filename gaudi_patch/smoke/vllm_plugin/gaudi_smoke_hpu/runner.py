# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""The model runner: follows the scheduler, and calls the connector at the same points as vllm-gaudi's runner.

Mirrors ``execute_model`` and ``HpuKVConnectorModelRunnerMixin`` of ``vllm_gaudi/v1/worker/hpu_model_runner.py``
(v0.26.0:910-940, 4349-4358, 4696-4733): the load starts before any computation. The forward context then holds the
list of the prefills' metadata if the step's metadata is LMCache's own, else None. Nothing is called per layer; the
runner waits for the save after the whole step; load errors are not reported to the scheduler.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
import vllm
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.forward_context import get_forward_context, set_forward_context
from vllm.v1 import kv_cache_interface
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.worker.kv_connector_model_runner_mixin import KVConnectorModelRunnerMixin
from vllm.v1.worker.utils import bind_kv_cache

from . import caches, models
from .foreign import Foreign

RELEASE = tuple(int(part) for part in re.findall(r"\d+", vllm.__version__)[:3])


@dataclasses.dataclass
class RequestState:
    """The runner's state of a request: all its tokens, its blocks, the number of tokens with KV.

    prompt: the number of tokens counted as the prompt. As in vllm-gaudi (v0.26.0, hpu_input_batch.py, add_request),
    this includes earlier outputs if a request is resumed with nothing computed, but not if it is resumed with a hit.
    """

    tokens: list[int]
    blocks: list[int]
    computed: int
    prompt: int


def fields_of(kind: Foreign, **values: Foreign) -> dict[str, Foreign]:
    """Return those of ``values`` that are fields of the dataclass ``kind``."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}


class Runner:
    """A runner of one of :mod:`models` over paged KV caches on the device."""

    def __init__(self, vllm_config: Foreign, rank: int, world: int) -> None:
        self.vllm_config = vllm_config
        self.block_size = int(vllm_config.cache_config.block_size)
        self.requests: dict[str, RequestState] = {}
        self.kv_caches: dict[str, caches.Cache] = {}
        self.bound: list[Foreign] = []
        self.num_blocks = 0
        self.rank, self.world = rank, world
        self.model: Foreign = None
        # Called with the runner and the scheduler output, before the load, and between load and computation.
        self.before_load: list[Foreign] = []
        self.after_load: list[Foreign] = []
        self.preempted = 0

    def load_model(self) -> None:
        """Build the configured model, and register its layers in the forward context."""
        kind = (self.vllm_config.additional_config or {}).get("smoke_model", "llama")
        self.model = models.build(kind, self.vllm_config.model_config, self.rank, self.world)
        context = self.vllm_config.compilation_config.static_forward_context
        for name in self.layer_names():
            context[name] = caches.CacheHolder()

    def layer_names(self) -> list[str]:
        """Return the layers' names, as in vLLM's models."""
        return [f"model.layers.{index}.self_attn.attn" for index in range(self.model.layers)]

    def kv_cache_spec(self) -> dict[str, Foreign]:
        """Return the specification from which vLLM computes the number of blocks."""
        kind = kv_cache_interface.FullAttentionSpec
        if self.model.use_mla:
            kind = getattr(kv_cache_interface, "MLAAttentionSpec", kind)
        spec = kind(
            **fields_of(
                kind,
                block_size=self.block_size,
                num_kv_heads=self.model.kv_heads,
                head_size=self.model.head_size,
                dtype=self.model.dtype,
                use_mla=self.model.use_mla,
            )
        )
        return dict.fromkeys(self.layer_names(), spec)

    def initialize_kv_cache(self, kv_cache_config: Foreign) -> None:
        """Allocate the caches, bind them to the forward context, and hand them to the connector."""
        self.num_blocks = int(kv_cache_config.num_blocks)
        for name in self.layer_names():
            self.kv_caches[name] = caches.allocate(
                num_blocks=self.num_blocks,
                block_size=self.block_size,
                heads=self.model.kv_heads,
                head_size=self.model.head_size,
                dtype=self.model.dtype,
                use_mla=self.model.use_mla,
                release=RELEASE,
            )
        bind_kv_cache(self.kv_caches, self.vllm_config.compilation_config.static_forward_context, self.bound)
        if has_kv_transfer_group():
            given = caches.hand_over(
                self.kv_caches, num_blocks=self.num_blocks, block_size=self.block_size, release=RELEASE
            )
            get_kv_transfer_group().register_kv_caches(given)

    def slots(self, state: RequestState, start: int, stop: int) -> Foreign:
        """Return the slots of a request's positions [start, stop), int64 on the CPU."""
        positions = np.arange(start, stop)
        blocks = np.asarray(state.blocks, dtype=np.int64)
        return torch.from_numpy(blocks[positions // self.block_size] * self.block_size + positions % self.block_size)

    def execute_model(self, scheduler_output: Foreign) -> Foreign:
        """Run one step of the engine."""
        self._update(scheduler_output)
        if not scheduler_output.total_num_scheduled_tokens:
            if not has_kv_transfer_group():
                return EMPTY_MODEL_RUNNER_OUTPUT
            return KVConnectorModelRunnerMixin.kv_connector_no_forward(scheduler_output, self.vllm_config)
        connector = get_kv_transfer_group() if has_kv_transfer_group() else None
        for hook in self.before_load:
            hook(self, scheduler_output)
        if connector is not None:
            with set_forward_context(self._context_metadata(scheduler_output), self.vllm_config):
                connector.bind_connector_metadata(scheduler_output.kv_connector_metadata)
                connector.start_load_kv(get_forward_context())
        for hook in self.after_load:
            hook(self, scheduler_output)
        sampled = [
            self._compute(self.requests[name], count) for name, count in scheduler_output.num_scheduled_tokens.items()
        ]
        finished: dict[str, Foreign] = {}
        if connector is not None:
            connector.wait_for_save()
            sending, receiving = connector.get_finished(scheduler_output.finished_req_ids)
            finished = {"finished_sending": sending, "finished_recving": receiving}
            connector.clear_connector_metadata()
        return self._output(scheduler_output, sampled, finished)

    def _context_metadata(self, scheduler_output: Foreign) -> Foreign:
        try:
            from lmcache.integration.vllm.vllm_v1_adapter import LMCacheConnectorMetadata
        except ImportError:
            return None
        if not isinstance(scheduler_output.kv_connector_metadata, LMCacheConnectorMetadata):
            return None
        return [name for name, count in scheduler_output.num_scheduled_tokens.items() if count > 1]

    def _update(self, scheduler_output: Foreign) -> None:
        for name in scheduler_output.finished_req_ids:
            self.requests.pop(name, None)
        for new in scheduler_output.scheduled_new_reqs:
            tokens = [int(token) for token in new.prompt_token_ids]
            self.requests[new.req_id] = RequestState(
                tokens, list(new.block_ids[0]), new.num_computed_tokens, len(tokens)
            )
        cached = scheduler_output.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            state = self.requests[name]
            state.computed = cached.num_computed_tokens[index]
            blocks = cached.new_block_ids[index]
            if hasattr(cached, "resumed_req_ids"):
                resumed = name in cached.resumed_req_ids
            else:
                resumed = cached.resumed_from_preemption[index]
            if resumed:
                self.preempted += 1
                state.blocks = list(blocks[0])
                if state.computed == 0:
                    state.prompt = len(state.tokens)
            elif blocks is not None:
                state.blocks += blocks[0]

    def _compute(self, state: RequestState, count: int) -> list[int]:
        stop = state.computed + count
        context = self.slots(state, 0, stop)
        pages = [self.kv_caches[name] for name in self.layer_names()]
        token = self.model.step(state.tokens, state.computed, stop, context, pages)
        state.computed = stop
        if stop < len(state.tokens):  # the prompt continues in a later step
            return []
        # A prefill returns a token for each position after what counts as the prompt: earlier outputs again, if a
        # request is resumed with a hit (v0.26.0, hpu_model_runner.py:2617-2630).
        again = min(stop - state.prompt, count - 1) if count > 1 else 0
        answer = [*state.tokens[stop - again : stop], token]
        state.tokens += answer
        return answer

    def _output(self, scheduler_output: Foreign, sampled: list[list[int]], finished: dict[str, Foreign]) -> Foreign:
        names = list(scheduler_output.num_scheduled_tokens)
        # Only 0.11.2 expects arrays.
        tokens: list[Foreign] = [np.array(row) for row in sampled] if RELEASE[:2] == (0, 11) else sampled
        return ModelRunnerOutput(
            **fields_of(
                ModelRunnerOutput,
                req_ids=names,
                req_id_to_index={name: index for index, name in enumerate(names)},
                sampled_token_ids=tokens,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
                kv_connector_output=KVConnectorOutput(**finished) if finished else None,
                spec_token_ids=None,
            )
        )
