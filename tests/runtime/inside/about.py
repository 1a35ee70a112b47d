"""The model metadata passed to LMCache, with the fields of its release."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from support import Caches

try:
    from lmcache.v1.metadata import LMCacheMetadata
except ImportError:  # up to 0.3.13
    from lmcache.config import LMCacheEngineMetadata as LMCacheMetadata

#: Blocks per cache, tokens per block, tokens per chunk.
BLOCKS, BLOCK, CHUNK = 40, 16, 64


def metadata(caches: Caches, **others: Any) -> Any:
    """Return the metadata of one rank over ``caches``; ``others`` override its values."""
    heads, size = caches.rows[0] if caches.kv == 2 else (1, int(np.prod(caches.rows[0])))
    values = {
        "model_name": "m",
        "world_size": 1,
        "local_world_size": 1,
        "worker_id": 0,
        "local_worker_id": 0,
        "fmt": "vllm",
        "kv_dtype": caches.dtype,
        "kv_shape": (len(caches.rows), caches.kv, CHUNK, heads, size),
        "use_mla": caches.kv == 1,
        "role": "worker",
        "chunk_size": CHUNK,
    } | others
    known = {field.name for field in dataclasses.fields(LMCacheMetadata)}
    return LMCacheMetadata(**{name: value for name, value in values.items() if name in known})
