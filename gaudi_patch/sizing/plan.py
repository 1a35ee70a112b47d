"""The only calculation: model, ranks, context and prompts -> KV, pools, host memory, /dev/shm, disk, time. Pure.

All sizes are in bytes; LMCache's "GB" are GiB (lmcache/v1/storage_backend/local_cpu_backend.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaudi_patch.sizing.shapes import Shape

GIB = 1024**3
MIB = 1024**2

#: Share that a pool gets beyond the KV itself: objects are aligned, and one chunk is always in transit.
SPARE = 0.05
#: Host memory of one vLLM rank besides weights and pool: an allowance, not a measurement.
RANK_OVERHEAD = 8 * GIB
#: Lowest expected speed of a store, in bytes per second, to derive a time limit from a size.
SLOW_STORE = 1_000_000_000
#: LMCache's own time limit for a load, in seconds (lmcache/v1/config.py, blocking_timeout_secs).
SHORTEST_TIMEOUT = 10
#: HBM of a card in bytes (vllm-gaudi v0.26.0, .cd/server/server_defaults.yaml, HPU_MEM), by name.
CARDS = {"gaudi2": 96 * GIB, "gaudi3": 128 * GIB}
#: Share that vLLM uses (--gpu-memory-utilization), the graphs' share of it (VLLM_GRAPH_RESERVED_MEM), and bytes that
#: are never free (settings_vllm.csv, UNAVAILABLE_MEM_ABS).
UTILIZATION, GRAPHS, UNAVAILABLE = 0.9, 0.1, 2 * GIB
#: vLLM's default of --max-num-seqs, as vllm-gaudi warms it up.
MOST_SEQUENCES = 256
#: Context from which recipes set the time limits of vllm-gaudi's guide, whose tables are for 32K tokens
#: (docs/configuration/long_context.md).
LONG = 32_768
#: Contexts that `size` prints.
STEPS = tuple(2**power for power in range(11, 19))


@dataclass(frozen=True)
class Load:
    """The load to serve: requests of ``context`` tokens, of which LMCache keeps ``prompts``.

    ``width`` is the bytes of a value in the KV cache: 2 for bfloat16, 1 for fp8_inc.
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
    """The sizes that a load needs, in bytes unless stated otherwise.

    ``token`` and ``prompt`` are per rank. ``pool`` is what each of ``pools`` processes must hold, a multiple of 0.1
    GiB. ``card_tokens`` estimates how many tokens fit on the cards besides the weights; None if the weights are
    unknown.
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
        """Return the number of ranks."""
        return self.load.ranks * self.load.pipeline

    @property
    def pool_gb(self) -> float:
        """Return ``pool`` in the unit of LMCache's max_local_cpu_size."""
        return round(self.pool / GIB, 1)

    @property
    def prompt_host(self) -> int:
        """Return the size of one prompt in all pools of the deployment."""
        return self.prompt * self.pools

    @property
    def pinned(self) -> int:
        """Return the memory that all processes together lock."""
        return self.pool * self.pools

    @property
    def host(self) -> int:
        """Return the host memory: pools, the ranks themselves, and the weights on their way to the cards."""
        return self.pinned + self.world * RANK_OVERHEAD + (self.shape.weights or 0)

    @property
    def sequences(self) -> int | None:
        """Return how many requests of full context the cards hold at once; None if unknown."""
        return None if self.card_tokens is None else self.card_tokens // self.load.context

    @property
    def max_num_seqs(self) -> int | None:
        """Return a --max-num-seqs for vLLM, a power of two that fits; None if vLLM's default fits, or if unknown."""
        if self.sequences is None or self.sequences >= MOST_SEQUENCES:
            return None
        return 2 ** int(math.log2(self.sequences)) if self.sequences else 1

    @property
    def timeout(self) -> int:
        """Return the seconds in which a slow store must give one prompt to all ranks."""
        return max(SHORTEST_TIMEOUT, math.ceil(self.prompt_host / SLOW_STORE))

    def disk(self, prompts: int) -> int:
        """Return what ``prompts`` prompts need in a store, for all ranks together."""
        return self.prompt_host * prompts

    def shm(self, gigabytes: float) -> int:
        """Return the /dev/shm of a multiprocess server with ``gigabytes`` GB of its own memory."""
        return math.ceil(gigabytes * GIB * (1 + SPARE))


def size(shape: Shape, load: Load) -> Sizing:
    """Return what ``load`` needs with the model ``shape``.

    KV heads are divided among the ranks, and repeated if there are fewer heads than ranks. MLA's latent is the same in
    every rank; LMCache keeps only that of the first (lmcache/v1/cache_engine.py, save_only_first_rank).
    """
    layers = math.ceil(shape.layers / load.pipeline)
    if shape.mla:
        token = layers * shape.head_size * load.width
    else:
        token = layers * 2 * max(1, shape.kv_heads // load.ranks) * shape.head_size * load.width
    whole = load.context // load.chunk * load.chunk
    prompt = token * whole
    pools = load.pipeline if shape.mla else load.ranks * load.pipeline
    # At least one chunk: LMCache refuses an empty pool.
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
    """Return how many tokens of one prompt fit in a pool of ``gigabytes`` per rank, in whole chunks."""
    sizing = size(shape, load)
    return int(gigabytes * GIB) // (sizing.token * load.chunk) * load.chunk


def sentence(sizing: Sizing) -> str:
    """Return the formula of a token's size with its numbers, so that a reader can repeat it."""
    shape, load = sizing.shape, sizing.load
    layers = math.ceil(shape.layers / load.pipeline)
    if shape.mla:
        factors, where = f"{layers} layers x {shape.head_size} latent x {load.width} B", "on every rank"
    else:
        heads = max(1, shape.kv_heads // load.ranks)
        factors, where = f"{layers} layers x 2 x {heads} KV heads x {shape.head_size} x {load.width} B", "on each rank"
    return f"{factors} = {sizing.token:,} B per token {where}"


def human(size: float) -> str:
    """Format bytes in a suitable binary unit."""
    for unit, bytes_ in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size:.0f} B"
