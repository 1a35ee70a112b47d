"""Caches, memory objects, and a NumPy oracle that works token by token and shares no code with the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

DEVICE = "hpu" if hasattr(torch, "hpu") else "cpu"
DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
)
#: name: (K and V or latent, blocked or flat, trimmed padding block, other tuple members)
LAYOUTS = {
    "blocks": (2, True, True, None),
    "blocks with the padding block": (2, True, False, None),
    "flat pair": (2, False, False, 0),
    "flat quadruple": (2, False, False, 2),
    "latent blocks": (1, True, True, None),
    "latent blocks with the padding block": (1, True, False, None),
    "latent flat": (1, False, False, None),
    "latent flat quadruple": (1, False, False, 3),
}


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = torch.from_numpy(rng.integers(0, 256, nbytes, dtype=np.uint8))
    return raw.view(dtype).view(shape)


def bits(tensor: torch.Tensor) -> np.ndarray:
    """Return the bytes of each row, ``[rows, row bytes]``."""
    host = tensor.detach().to("cpu").contiguous()
    return host.view(torch.uint8).numpy().reshape(host.shape[0], -1).copy()


@dataclass
class Caches:
    """Flat caches, and the form in which vLLM would pass them."""

    flat: list[list[torch.Tensor]]  # layer, side: [slots + padding, *row]
    given: list[Any]
    slots: int
    kv: int
    rows: list[tuple[int, ...]]
    dtype: torch.dtype

    def read(self) -> list[list[np.ndarray]]:
        return [[bits(side) for side in layer] for layer in self.flat]

    def objects(self, tokens: int, rng: np.random.Generator) -> list[torch.Tensor]:
        """Return the tensors of one memory object, one per distinct row width in order of appearance."""
        widths: dict[int, int] = {}
        for row in self.rows:
            widths[int(np.prod(row))] = widths.get(int(np.prod(row)), 0) + 1
        return [random_bits((self.kv, n, tokens, width), self.dtype, rng) for width, n in widths.items()]

    def place(self, layer: int) -> tuple[int, int]:
        """Return which tensor of an object holds a layer, and the layer's index in it."""
        order = list(dict.fromkeys(int(np.prod(row)) for row in self.rows))
        width = int(np.prod(self.rows[layer]))
        return order.index(width), sum(int(np.prod(row)) == width for row in self.rows[:layer])


def make_caches(
    layout: str,
    dtype: torch.dtype,
    *,
    blocks: int,
    block_size: int,
    rows: list[tuple[int, ...]],
    rng: np.random.Generator,
    device: str = DEVICE,
) -> Caches:
    kv, blocked, trimmed, extras = LAYOUTS[layout]
    behind = 1 if blocked else 0
    flat, given = [], []
    for row in rows:
        shape = ((blocks + behind) * block_size, *(row if kv == 2 else (int(np.prod(row)),)))
        sides = [random_bits(shape, dtype, rng).to(device) for _ in range(kv)]
        flat.append(sides)
        views = sides
        if blocked:
            views = [side.view(-1, block_size, *shape[1:]) for side in sides]
            if trimmed:
                views = [view[:blocks] for view in views]
        if extras is None:
            given.append(tuple(views) if kv == 2 else views[0])
        else:
            given.append((*views, *[None] * extras))
    return Caches(flat, given, blocks * block_size, kv, rows, dtype)


def spans_of(tokens: int, chunk: int, start: int = 0) -> list[tuple[int, int]]:
    return [(first, min(first + chunk, tokens)) for first in range(start, tokens, chunk)]


def expect_load(
    caches: Caches,
    before: list[list[np.ndarray]],
    objects: list[list[torch.Tensor]],
    spans: list[tuple[int, int]],
    slots: np.ndarray,
    skip: int,
) -> list[list[np.ndarray]]:
    """Return the caches after a load."""
    after = [[side.copy() for side in layer] for layer in before]
    for tensors, (start, end) in zip(objects, spans, strict=True):
        for position in range(start, end):
            slot = int(slots[position])
            if slot < 0 or position < skip:
                continue
            for layer in range(len(after)):
                tensor, place = caches.place(layer)
                for side in range(caches.kv):
                    row = tensors[tensor][side, place, position - start]
                    after[layer][side][slot] = row.view(torch.uint8).numpy()
    return after


def expect_store(
    caches: Caches,
    before: list[list[np.ndarray]],
    objects: list[list[torch.Tensor]],
    spans: list[tuple[int, int]],
    slots: np.ndarray,
) -> list[list[np.ndarray]]:
    """Return the bytes of every tensor of every object after a store."""
    after = [[t.view(torch.uint8).numpy().reshape(*t.shape[:3], -1).copy() for t in tensors] for tensors in objects]
    for number, (start, end) in enumerate(spans):
        for position in range(start, end):
            slot = int(slots[position])
            if slot < 0:
                continue
            for layer in range(len(before)):
                tensor, place = caches.place(layer)
                for side in range(caches.kv):
                    after[number][tensor][side, place, position - start] = before[layer][side][slot]
    return after


def object_bytes(objects: list[list[torch.Tensor]]) -> list[list[np.ndarray]]:
    return [[t.view(torch.uint8).numpy().reshape(*t.shape[:3], -1).copy() for t in tensors] for tensors in objects]
