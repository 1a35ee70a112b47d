"""LMCache's own engine on the emulated HPU, with the configuration and environment from a recipe's script.

Reads one command per line from stdin, and answers each with a line of JSON. ``store SEED`` stores a prompt whose KV is
made from its seed. ``look SEED`` looks it up, loads the promised tokens into other slots, and compares every byte with
what this or another process stored.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "runtime" / "inside"))
sys.path.append(str(Path(__file__).parent))  # the stand-in for vLLM

from lmcache.gaudi.connector import create_connector
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from support import bits, make_caches

try:
    from lmcache.v1.metadata import LMCacheMetadata
except ImportError:  # up to 0.3.12
    from lmcache.config import LMCacheEngineMetadata as LMCacheMetadata

BLOCK, CHUNK = 128, 256
#: Of the model: layers, KV heads and their size. Of a prompt: its tokens.
LAYERS, HEADS, SIZE, TOKENS = (int(value) for value in os.environ.get("TEST_SHAPE", "2,2,8,1024").split(","))
BLOCKS = 2 * TOKENS // BLOCK + 8


def small_caches() -> Any:
    """Return the caches of the small model."""
    rows, rng = [(HEADS, SIZE)] * LAYERS, np.random.default_rng(0)
    return make_caches("blocks", torch.bfloat16, blocks=BLOCKS, block_size=BLOCK, rows=rows, rng=rng)


class Serving:
    """An engine of a small model."""

    def __init__(self) -> None:
        config = LMCacheEngineConfig.from_file(os.environ["LMCACHE_CONFIG_FILE"])
        config.update_config_from_env()
        config.validate()
        assert config.chunk_size == CHUNK
        self.caches = small_caches()
        values = {
            "model_name": "tiny",
            "world_size": 1,
            "local_world_size": 1,
            "worker_id": 0,
            "local_worker_id": 0,
            "fmt": "vllm",
            "kv_dtype": torch.bfloat16,
            "kv_shape": (LAYERS, 2, CHUNK, HEADS, SIZE),
            "use_mla": False,
            "role": "worker",
            "chunk_size": CHUNK,
        }
        known = {field.name for field in dataclasses.fields(LMCacheMetadata)}
        about = LMCacheMetadata(**{name: value for name, value in values.items() if name in known})
        connector = create_connector(config, about, "VLLM")
        self.engine = LMCacheEngineBuilder.get_or_create(
            "engine", config, about, connector, lambda t, _: t, lambda o, _: o
        )
        connector.initialize_kvcaches_ptr(kvcaches=self.caches.given)
        self.engine.post_init(kvcaches=self.caches.given)

    def backends(self) -> list[str]:
        return list(self.engine.storage_manager.storage_backends)

    def pool(self) -> str:
        """Return the kind of LMCache's pool: whether chunks are pinned one by one."""
        return type(self.engine.storage_manager.storage_backends["LocalCPUBackend"].memory_allocator).__name__

    def store(self, seed: int) -> dict[str, Any]:
        slots = torch.arange(TOKENS)
        fill(self.caches, seed, slots)
        began = time.monotonic()
        self.engine.store(prompt(seed), kvcaches=self.caches.given, slot_mapping=slots)
        remote = [one for one in self.engine.storage_manager.storage_backends.values() if hasattr(one, "put_tasks")]
        time.sleep(0.1)
        while any(one.put_tasks for one in remote) and time.monotonic() < began + 20:
            time.sleep(0.05)
        return {"seconds": time.monotonic() - began}

    def look(self, seed: int) -> dict[str, Any]:
        began = time.monotonic()
        promised = int(self.engine.lookup(prompt(seed), lookup_id=f"{seed}", pin=True))
        loaded, equal = 0, True
        if promised:
            slots = torch.arange(TOKENS, TOKENS + promised)
            mask = torch.ones(promised, dtype=torch.bool)
            found = self.engine.retrieve(
                prompt(seed)[:promised], mask, kvcaches=self.caches.given, slot_mapping=slots, req_id=f"{seed}"
            )
            loaded = int(found.sum())
            equal = is_as_stored(self.caches, seed, loaded)
        if hasattr(self.engine, "lookup_unpin"):
            self.engine.lookup_unpin(f"{seed}")
        return {"promised": promised, "loaded": loaded, "equal": equal, "seconds": time.monotonic() - began}


def prompt(seed: int) -> list[int]:
    return random.Random(seed).choices(range(50_000), k=TOKENS)


def fill(caches: Any, seed: int, slots: torch.Tensor) -> None:
    """Write into ``slots`` the KV that the model would compute for the prompt of that seed."""
    for layer, sides in enumerate(caches.flat):
        for side, tensor in enumerate(sides):
            tensor.index_copy_(0, slots.to(tensor.device), _values(seed, layer, side, tensor).to(tensor.device))


def is_as_stored(caches: Any, seed: int, loaded: int) -> bool:
    """Return whether ``loaded`` tokens from slot TOKENS on equal, byte for byte, those of ``fill`` for that seed."""
    return all(
        np.array_equal(bits(tensor)[TOKENS : TOKENS + loaded], bits(_values(seed, layer, side, tensor))[:loaded])
        for layer, sides in enumerate(caches.flat)
        for side, tensor in enumerate(sides)
    )


def _values(seed: int, layer: int, side: int, like: torch.Tensor) -> torch.Tensor:
    rng = np.random.default_rng((seed, layer, side))
    raw = torch.from_numpy(rng.integers(0, 200, (TOKENS, like[0].numel()), dtype=np.uint8))
    return raw.to(torch.bfloat16).view(TOKENS, *like.shape[1:])


def serve(serving: Any, start: dict[str, Any]) -> None:
    """Print what has started, then answer each command."""
    print(json.dumps(start), flush=True)
    for line in sys.stdin:
        command, seed = line.split()
        answer = serving.store(int(seed)) if command == "store" else serving.look(int(seed))
        print(json.dumps(answer), flush=True)


def run(main: Callable[[], None]) -> NoReturn:
    """Run ``main`` and exit at once: threads left by LMCache would keep the process alive."""
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def main() -> None:
    serving = Serving()
    serve(serving, {"backends": serving.backends(), "pool": serving.pool(), "arguments": sys.argv[1:]})


if __name__ == "__main__":
    run(main)
