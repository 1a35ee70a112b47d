"""The KV of a request on one rank: which bytes belong into which slots, by a hash of its owner and its tokens.

Imported by the interpreter that has PyTorch, below inside.py. It shares no code with what it judges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from _kv import caches as kv_caches
from _kv import oracle as kv_oracle
from gaudi_smoke_hpu import pattern

from tests.mixes import generator

CHUNK, BLOCK, BLOCKS, LAYERS = 64, 16, 96, 3
LONGEST = 7 * CHUNK


def make_caches(*, mla: bool, rng: Any) -> Any:
    """Return the caches of a rank."""
    return kv_caches.Caches(
        kv_caches.MLA if mla else kv_caches.MAIN,
        dtype="bfloat16",
        blocks=BLOCKS,
        block_size=BLOCK,
        heads=heads(mla=mla),
        head_size=head_size(mla=mla),
        rng=rng,
    )


def heads(*, mla: bool) -> tuple[int, ...]:
    """Return the KV heads of each layer."""
    return (1 if mla else 2,) * LAYERS


def head_size(*, mla: bool) -> int:
    """Return the elements of a head."""
    return 256 if mla else 64


class Rows:
    """A request's KV in the blocks of one rank's caches.

    Args:
        caches: The rank's.
        request: Its owner counts.
        tokens: The prompt, and outputs if it was resumed.
        number: The rank's; with ``mla``, all ranks have the same KV.
        taken: Blocks of other requests.
        rng: Chooses the blocks.
    """

    def __init__(
        self,
        caches: Any,
        request: generator.Request,
        tokens: Sequence[int],
        *,
        mla: bool,
        number: int,
        rng: Any,
        taken: Collection[int] = (),
    ) -> None:
        self._caches, self.tokens = caches, list(tokens)
        free = np.setdiff1d(np.arange(BLOCKS), np.array(sorted(taken), dtype=np.int64))
        self.blocks = [int(block) for block in rng.permutation(free)[: -(-len(tokens) // BLOCK)]]
        assert len(self.blocks) * BLOCK >= len(tokens), "the caches are too small for the mix"
        self.slots = [self.blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(len(tokens))]
        hashes = pattern.prefix_hashes([hash_of(request), *tokens])[1:]
        self.rows = []
        shift = 0 if mla else 1000 * number
        for plane, content in enumerate(caches.truth):
            with np.errstate(over="ignore"):
                seeds = pattern.mix(hashes + np.uint64(shift + plane + 1) * np.uint64(0x9E3779B97F4A7C15))
                steps = np.arange(content.shape[1] // 8, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
                self.rows.append(pattern.mix(seeds[:, None] + steps[None, :]).view(np.uint8))

    def compute(self, start: int, end: int) -> None:
        """Write the KV of these positions, as a forward pass does."""
        if end > start:
            self._caches.write(self.slots[start:end], [rows[start:end] for rows in self.rows])

    def expect(self, start: int, end: int) -> None:
        """Expect the KV of these positions, written by LMCache."""
        for plane, rows in zip(self._caches.truth, self.rows, strict=True):
            plane[self.slots[start:end]] = rows[start:end]

    def wrong(self) -> str:
        """Return a text that says where the caches are wrong, in any block; empty if they are right."""
        now = self._caches.read()
        problem = kv_oracle.wrong_rows(now, self._caches.truth, set(self.slots))
        self._caches.truth = now
        return problem

    def free(self) -> None:
        """Hand the blocks to another request, which overwrites them at once."""
        self._caches.write_pending([block * BLOCK + at for block in self.blocks for at in range(BLOCK)])


def hash_of(request: generator.Request) -> int:
    """Return a token that identifies the owner of the KV."""
    return generator.VOCABULARY + sum((place + 1) * ord(mark) for place, mark in enumerate(repr(request.identity)))


def vllm_request(request: generator.Request) -> Any:
    """Return the fields of vLLM's request that LMCache's adapter reads for its keys."""
    name = request.adapter
    lora = SimpleNamespace(lora_name=name, lora_path=f"/adapters/{name}", lora_int_id=1) if name else None
    return SimpleNamespace(lora_request=lora, cache_salt=request.salt or None, prompt_embeds=None)
