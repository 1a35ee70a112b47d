"""The one calculation: model, ranks, context and prompts -> KV, pools, host memory, /dev/shm, disk, time. Pure.

Bytes throughout; LMCache's "GB" are GiB (lmcache/v1/storage_backend/local_cpu_backend.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaudi_patch.sizing.shapes import Shape

GIB = 1024**3
MIB = 1024**2

#: More than the KV itself that a pool is given: objects are aligned, and one chunk is always on its way.
SPARE = 0.05
#: Host memory of one vLLM rank beside weights and pool: an allowance, not a measurement.
RANK_OVERHEAD = 8 * GIB
#: What a store is at least trusted with, in bytes a second, where a time limit is derived from a size.
SLOW_STORE = 1_000_000_000
#: LMCache's own time limit for a load, in seconds (lmcache/v1/config.py, blocking_timeout_secs).
SHORTEST_TIMEOUT = 10
#: HBM of a card in bytes (vllm-gaudi v0.26.0, .cd/server/server_defaults.yaml, HPU_MEM), by name.
CARDS = {"gaudi2": 96 * GIB, "gaudi3": 128 * GIB}
#: What vLLM leaves (--gpu-memory-utilization), what graphs take of it (VLLM_GRAPH_RESERVED_MEM), and what is never
#: free (settings_vllm.csv, UNAVAILABLE_MEM_ABS).
UTILIZATION, GRAPHS, UNAVAILABLE = 0.9, 0.1, 2 * GIB
#: vLLM's default of --max-num-seqs, as vllm-gaudi warms it up.
MOST_SEQUENCES = 256
#: Contexts from which vllm-gaudi's guide wants longer time limits (docs/configuration/long_context.md).
LONG = 32_768
#: What `size` prints.
STEPS = tuple(2**power for power in range(11, 19))


@dataclass(frozen=True)
class Load:
    """What is to be served: ``context`` tokens for a request, of which ``prompts`` are kept by LMCache.

    ``width`` is bytes of a value in the KV cache: 2 for bfloat16, 1 for fp8_inc.
    """

    context: int
    ranks: int = 1
    pipeline: int = 1
    prompts: int = 2
    chunk: int = 256
    width: int = 2
    card: str = "gaudi3"


@dataclass(frozen=True)
class Sizing:
    """What a load takes, in bytes unless it says otherwise.

    ``token`` and ``prompt`` are of one rank; ``pool`` is what each of ``pools`` processes has to hold, a multiple of
    0.1 GiB. ``card_tokens`` is an estimate of the tokens that fit on the cards beside the weights, None where the
    weights are not known.
    """

    shape: Shape
    load: Load
    token: int
    prompt: int
    pool: int
    pools: int
    card_tokens: int | None

    @property
    def world(self) -> int:
        """Return how many ranks there are."""
        return self.load.ranks * self.load.pipeline

    @property
    def pool_gb(self) -> float:
        """``pool`` as LMCache's max_local_cpu_size takes it."""
        return round(self.pool / GIB, 1)

    @property
    def prompt_host(self) -> int:
        """One prompt in all pools of the deployment."""
        return self.prompt * self.pools

    @property
    def pinned(self) -> int:
        """Return what the processes together lock in memory."""
        return self.pool * self.pools

    @property
    def host(self) -> int:
        """Host memory: pools, the ranks themselves, and the weights on their way to the cards."""
        return self.pinned + self.world * RANK_OVERHEAD + (self.shape.weights or 0)

    @property
    def sequences(self) -> int | None:
        """Return how many requests of the whole context the cards hold at once; None where that is not known."""
        return None if self.card_tokens is None else self.card_tokens // self.load.context

    @property
    def max_num_seqs(self) -> int | None:
        """Return what to give vLLM as --max-num-seqs: a power of two that fits; None where vLLM's own default does."""
        if self.sequences is None or self.sequences >= MOST_SEQUENCES:
            return None
        return 2 ** int(math.log2(self.sequences)) if self.sequences else 1

    @property
    def timeout(self) -> int:
        """Seconds within which a slow store gives one prompt to all ranks."""
        return max(SHORTEST_TIMEOUT, math.ceil(self.prompt_host / SLOW_STORE))

    def disk(self, prompts: int) -> int:
        """Return what ``prompts`` prompts take in a store, all ranks together."""
        return self.prompt_host * prompts

    def shm(self, gigabytes: float) -> int:
        """Return the /dev/shm of a multiprocess server with so many GB of memory of its own."""
        return math.ceil(gigabytes * GIB * (1 + SPARE))


def size(shape: Shape, load: Load) -> Sizing:
    """Return what ``load`` takes with the model ``shape``.

    KV heads are divided among the ranks, and repeated where there are fewer heads than ranks; MLA's latent is the
    same in every rank, and LMCache keeps that of the first one only (lmcache/v1/cache_engine.py, save_only_first_rank).
    """
    layers = math.ceil(shape.layers / load.pipeline)
    if shape.mla:
        token = layers * shape.head_size * load.width
    else:
        token = layers * 2 * max(1, shape.kv_heads // load.ranks) * shape.head_size * load.width
    whole = load.context // load.chunk * load.chunk
    prompt = token * whole
    pools = load.pipeline if shape.mla else load.ranks * load.pipeline
    # One chunk at least: a pool of nothing is refused by LMCache.
    wanted = max(prompt * load.prompts, token * load.chunk) * (1 + SPARE)
    pool = math.ceil(round(wanted / GIB * 10, 6)) * GIB // 10
    return Sizing(shape, load, token, prompt, pool, pools, _card_tokens(shape, load, token))


def _card_tokens(shape: Shape, load: Load, token: int) -> int | None:
    """Return how many tokens fit on each card, by vllm-gaudi's own rule (hpu_worker.py, determine_available_memory)."""
    if shape.weights is None:
        return None
    free = CARDS[load.card] - UNAVAILABLE - shape.weights / (load.ranks * load.pipeline)
    return max(0, int(free * UTILIZATION * (1 - GRAPHS) / token))


def fits(shape: Shape, load: Load, gigabytes: float) -> int:
    """Return how many tokens of one prompt a pool of ``gigabytes`` for each rank holds, in whole chunks."""
    sizing = size(shape, load)
    return int(gigabytes * GIB) // (sizing.token * load.chunk) * load.chunk


def sentence(sizing: Sizing) -> str:
    """Return the formula of a token with its numbers, as a reader can redo it."""
    shape, load = sizing.shape, sizing.load
    layers = math.ceil(shape.layers / load.pipeline)
    if shape.mla:
        factors, where = f"{layers} layers x {shape.head_size} latent x {load.width} B", "in every rank"
    else:
        heads = max(1, shape.kv_heads // load.ranks)
        factors, where = f"{layers} layers x 2 x {heads} KV heads x {shape.head_size} x {load.width} B", "in each rank"
    return f"{factors} = {sizing.token:,} B a token {where}"


def human(size: float) -> str:
    """Return bytes in the binary unit that suits them."""
    for unit, bytes_ in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size:.0f} B"
