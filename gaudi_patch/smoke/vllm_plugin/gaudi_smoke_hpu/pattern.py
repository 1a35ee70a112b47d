# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""A model whose KV is a hash: every bit of a token's KV follows from the tokens up to it, the layer and the position.

So a block's content can be compared bit for bit with the expected content, whether the model or LMCache wrote it. All
bit patterns occur, including NaNs.
"""

from __future__ import annotations

import numpy as np
import torch

from .foreign import Foreign

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def mix(x: Foreign) -> Foreign:
    """Apply SplitMix64's finaliser to each element (uint64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def prefix_hashes(tokens: list[int]) -> Foreign:
    """Return one hash per position, of all tokens up to it; uint64 [len(tokens)]."""
    hashes = np.empty(len(tokens), dtype=np.uint64)
    state = 0x243F6A8885A308D3
    for index, token in enumerate(tokens):
        state = (state ^ (token + 1)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
        hashes[index] = state
    return hashes


class PatternModel(torch.nn.Module):
    """The model, for the shapes of a vLLM model configuration."""

    def __init__(self, model_config: Foreign) -> None:
        super().__init__()
        hf = model_config.hf_config
        self.layers = int(hf.num_hidden_layers)
        self.use_mla = bool(model_config.use_mla)
        self.kv_heads = 1 if self.use_mla else int(hf.num_key_value_heads)
        self.head_size = int(model_config.get_head_size())
        self.dtype = model_config.dtype
        self.vocabulary = int(hf.vocab_size)

    def rows(self, tokens: list[int], start: int, stop: int, layer: int, part: int) -> Foreign:
        """Return the bytes of K (part 0) or V (part 1) at positions [start, stop); uint8 [stop - start, bytes per
        token].
        """
        with np.errstate(over="ignore"):
            width = self.kv_heads * self.head_size * self.dtype.itemsize
            seeds = mix(prefix_hashes(tokens[:stop])[start:] + np.uint64(2 * layer + part + 1) * _MULTIPLIER)
            words = mix(seeds[:, None] + np.arange(-(-width // 8), dtype=np.uint64)[None, :] * _MULTIPLIER)
        return np.ascontiguousarray(words).view(np.uint8)[:, :width].copy()

    def step(self, tokens: list[int], start: int, stop: int, context: Foreign, pages: list[Foreign]) -> int:
        """Write the KV of positions [start, stop); the next token is a hash of all tokens."""
        fresh = context[start:].to("hpu")
        for layer, caches in enumerate(pages):
            for part, cache in enumerate(caches[:2]):
                if cache is not None:
                    rows = torch.from_numpy(self.rows(tokens, start, stop, layer, part)).view(self.dtype)
                    cache.index_copy_(0, fresh, rows.view(stop - start, *cache.shape[1:]).to("hpu"))
        torch.hpu.synchronize()  # the rows' host memory is freed when this returns
        return int(prefix_hashes(tokens[:stop])[-1] >> np.uint64(17)) % self.vocabulary

    def differing(
        self, tokens: list[int], stop: int, context: Foreign, pages: list[Foreign]
    ) -> list[tuple[int, int, int]]:
        """Return where the caches differ from the expected content at positions [0, stop): (layer, part, position)."""
        wrong: list[tuple[int, int, int]] = []
        if not stop:
            return wrong
        slots = context[:stop].to("hpu")
        for layer, caches in enumerate(pages):
            for part, cache in enumerate(caches[:2]):
                if cache is None:
                    continue
                found = cache.index_select(0, slots).cpu().contiguous().view(torch.uint8).reshape(stop, -1).numpy()
                rows = (found != self.rows(tokens, 0, stop, layer, part)).any(axis=1)
                wrong += [(layer, part, int(position)) for position in np.flatnonzero(rows)]
        return wrong
