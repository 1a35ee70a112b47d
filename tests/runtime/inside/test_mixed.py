"""Chunks shared between hosts: blocks of 16 and of 128 tokens, and a store that a CUDA host fills or reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Settings, Transfer
from support import DEVICE, Caches, make_caches, random_bits, spans_of

CHUNK, TOKENS, LAYERS, HEADS, SIZE = 256, 700, 3, 2, 8
BF16 = torch.bfloat16


def gaudi(block: int, seed: int) -> tuple[Caches, Transfer, torch.Tensor]:
    """Return caches of a Gaudi host with blocks of this size, and the slots of a request in shuffled blocks."""
    rng = np.random.default_rng(seed)
    blocks = 2 * -(-TOKENS // block)
    rows: list[tuple[int, ...]] = [(HEADS, SIZE)] * LAYERS
    caches = make_caches("blocks", BF16, blocks=blocks, block_size=block, rows=rows, rng=rng)
    layout = normalise(caches.given, bitcast=DEVICE == "cpu")
    transfer = Transfer(layout, chunk=CHUNK, settings=Settings(largest_group=4, threads=2))
    return caches, transfer, torch.from_numpy(slots(blocks, block, rng))


def slots(blocks: int, block: int, rng: np.random.Generator) -> np.ndarray:
    table = rng.permutation(blocks)
    return np.array([int(table[t // block]) * block + t % block for t in range(TOKENS)])


def objects() -> list[list[torch.Tensor]]:
    spans = spans_of(TOKENS, CHUNK)
    return [[torch.zeros((2, LAYERS, end - start, HEADS * SIZE), dtype=BF16)] for start, end in spans]


def of_tokens(caches: Caches, mapping: torch.Tensor) -> list[list[np.ndarray]]:
    return [[side[mapping.numpy()] for side in layer] for layer in caches.read()]


def through_a_store(stored: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """Return an object after a store has kept only its bytes."""
    kept = [[(t.view(torch.uint8).numpy().tobytes(), t.shape) for t in tensors] for tensors in stored]
    return [
        [torch.frombuffer(bytearray(data), dtype=torch.uint8).view(BF16).view(shape) for data, shape in tensors]
        for tensors in kept
    ]


@pytest.mark.parametrize(("here", "there"), [(16, 128), (128, 16)])
def test_a_chunk_travels_between_hosts_with_other_blocks(here: int, there: int) -> None:
    source, store, written = gaudi(here, 1)
    target, load, mapping = gaudi(there, 2)
    spans, moved = spans_of(TOKENS, CHUNK), objects()
    assert store.store(moved, spans, written) == TOKENS
    assert load.load(through_a_store(moved), spans, mapping) == TOKENS
    for right, found in zip(of_tokens(source, written), of_tokens(target, mapping), strict=True):
        np.testing.assert_array_equal(found, right)


def cuda_paged(block: int, seed: int) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return vLLM's CUDA cache, ``[2, blocks, block size, heads, head size]`` per layer (FlashAttention), and slots."""
    rng = np.random.default_rng(seed)
    blocks = 2 * -(-TOKENS // block)
    layers = [random_bits((2, blocks, block, HEADS, SIZE), BF16, rng) for _ in range(LAYERS)]
    return layers, slots(blocks, block, rng)


def cuda_objects(layers: list[torch.Tensor], mapping: np.ndarray) -> list[list[torch.Tensor]]:
    """Return the objects of a CUDA host, token by token: KV_2LTD, ``[2, layers, tokens, heads x head size]``."""
    made = objects()
    for (tensor,), (start, end) in zip(made, spans_of(TOKENS, CHUNK), strict=True):
        for layer, cache in enumerate(layers):
            block = cache.shape[2]
            for token in range(start, end):
                row = cache[:, mapping[token] // block, mapping[token] % block]
                tensor[:, layer, token - start] = row.reshape(2, -1)
    return made


def test_what_a_cuda_host_has_stored_is_loaded_into_larger_blocks() -> None:
    layers, there = cuda_paged(16, 3)
    caches, transfer, mapping = gaudi(128, 4)
    assert transfer.load(through_a_store(cuda_objects(layers, there)), spans_of(TOKENS, CHUNK), mapping) == TOKENS
    for layer, sides in enumerate(of_tokens(caches, mapping)):
        flat = layers[layer].reshape(2, -1, HEADS * SIZE)
        for side, found in enumerate(sides):
            right = flat[side, torch.from_numpy(there)].contiguous().view(torch.uint8).numpy()
            np.testing.assert_array_equal(found.reshape(right.shape), right)


def test_a_cuda_host_finds_the_bytes_that_it_would_have_stored() -> None:
    caches, transfer, mapping = gaudi(128, 5)
    layers, there = cuda_paged(16, 6)
    for layer, sides in enumerate(of_tokens(caches, mapping)):
        flat = layers[layer].view(2, -1, HEADS, SIZE)
        for side, rows in enumerate(sides):
            flat[side, torch.from_numpy(there)] = torch.from_numpy(rows.copy()).view(BF16).view(-1, HEADS, SIZE)
    stored = objects()
    assert transfer.store(stored, spans_of(TOKENS, CHUNK), mapping) == TOKENS
    for (found,), (right,) in zip(through_a_store(stored), cuda_objects(layers, there), strict=True):
        assert torch.equal(found.view(torch.uint8), right.view(torch.uint8))
