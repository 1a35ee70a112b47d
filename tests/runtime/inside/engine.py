"""The real LMCacheEngine on the emulated HPU; a script, since threads left by LMCache keep a process alive."""

from __future__ import annotations

import logging
import os
import random
import sys
import time
import traceback
from typing import Any

import numpy as np
import torch

logging.disable(logging.WARNING)

from about import BLOCK, BLOCKS, CHUNK, metadata  # noqa: E402
from lmcache.utils import EngineType  # noqa: E402
from lmcache.v1.cache_engine import LMCacheEngineBuilder  # noqa: E402
from lmcache.v1.config import LMCacheEngineConfig  # noqa: E402
from lmcache.v1.gpu_connector import CreateGPUConnector  # noqa: E402
from support import Caches, bits, make_caches  # noqa: E402

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def fill(caches: Caches, byte: int) -> None:
    for layer in caches.flat:
        for side in layer:
            side.copy_(torch.full(side.shape, 0, dtype=side.dtype).view(torch.uint8).fill_(byte).view(side.dtype))


def round_trip(layout: str, dtype: torch.dtype, *, tokens: int, cached: int, disk: str | None, wide: bool) -> None:
    """Store from some slots, wipe, retrieve into others, and compare every slot of every cache."""
    rng = np.random.default_rng(0)
    rows = [(2, 8), (4, 8), (2, 8)] if wide else [(2, 8)] * 3
    caches = make_caches(layout, dtype, blocks=BLOCKS, block_size=BLOCK, rows=rows, rng=rng)
    options: dict[str, Any] = {"chunk_size": CHUNK, "max_local_cpu_size": 0.1, "save_unfull_chunk": True}
    if disk:
        options |= {"local_cpu": False, "local_disk": disk, "max_local_disk_size": 0.1}
    config = LMCacheEngineConfig.from_defaults(**options)
    about = metadata(caches)
    connector = CreateGPUConnector(config, about, EngineType.VLLM)
    assert type(connector).__name__ == "GaudiConnector", type(connector)
    name = f"engine-{random.random()}"
    engine = LMCacheEngineBuilder.get_or_create(name, config, about, connector, lambda t, _: t, lambda o, _: o)
    connector.initialize_kvcaches_ptr(kvcaches=caches.given)
    engine.post_init(kvcaches=caches.given)
    prompt = [random.randrange(50000) for _ in range(tokens)]
    there = rng.permutation(caches.slots)
    here = rng.permutation(caches.slots)
    stored = caches.read()
    engine.store(prompt, kvcaches=caches.given, slot_mapping=torch.from_numpy(there[:tokens]))
    deadline = time.monotonic() + 30
    while (hit := engine.lookup(prompt)) != tokens and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hit == tokens, f"lookup finds {hit} of {tokens} tokens"
    fill(caches, 0x11)
    mask = torch.ones(tokens, dtype=torch.bool)
    mask[: cached // CHUNK * CHUNK] = False
    found = engine.retrieve(
        prompt,
        mask,
        kvcaches=caches.given,
        slot_mapping=torch.from_numpy(here[:tokens]),
        vllm_cached_tokens=cached,
    )
    assert int(found.sum()) == int(mask.sum())
    for layer, sides in enumerate(caches.flat):
        for side, tensor in enumerate(sides):
            expected = np.full_like(stored[layer][side], 0x11)
            expected[here[cached:tokens]] = stored[layer][side][there[cached:tokens]]
            np.testing.assert_array_equal(bits(tensor)[: caches.slots], expected[: caches.slots])
    LMCacheEngineBuilder.destroy(name)


def usage_statistics() -> None:
    """Run LMCache's device queries at engine start, on by default; from 0.5.2 on it survives their errors."""
    from lmcache.usage_context import UsageContext

    if hasattr(UsageContext, "_get_gpu_info"):
        UsageContext._get_gpu_info(None)


def main(folder: str) -> int:
    usage_statistics()
    plain: dict[str, Any] = {"tokens": 300, "cached": 0, "disk": None, "wide": False}
    cases: list[tuple[str, torch.dtype, dict[str, Any]]] = [
        ("blocks", BF16, {}),
        ("blocks", BF16, {"cached": 100}),
        ("blocks", FP8, {"cached": 70}),
        ("blocks with the padding block", BF16, {"tokens": 577}),
        ("blocks", BF16, {"disk": folder}),
        ("flat pair", BF16, {"cached": 64}),
        ("flat quadruple", FP8, {}),
        ("latent blocks", BF16, {"cached": 100}),
        ("latent flat quadruple", BF16, {}),
        ("blocks", BF16, {"wide": True, "cached": 100}),
        ("blocks", FP8, {"wide": True}),
    ]
    for number, (layout, dtype, others) in enumerate(cases):
        try:
            round_trip(layout, dtype, **(plain | others))
        except Exception:
            print(f"case {number}: {layout}, {dtype}, {others}\n{traceback.format_exc()}", flush=True)
            return 1
    print(f"{len(cases)} cases passed", flush=True)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
