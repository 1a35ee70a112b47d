"""Run by an environment with LMCache: the keys of two chunks, as LMCache makes them from a configuration file.

Two stand-ins for vLLM's modules have the same names and return the same kind of values: digests, as bytes.
"""

import hashlib
import os
import sys
import types


def sha256_cbor(value: object) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()


def get_hash_fn_by_name(name: str) -> object:
    if name != "sha256_cbor":
        raise ValueError(name)
    return sha256_cbor


def init_none_hash(function: object) -> None:
    """Make the first hash as vLLM does: from the seed, through the same function."""
    core.NONE_HASH = function(os.environ["PYTHONHASHSEED"])


hashing = types.ModuleType("vllm.utils.hashing")
hashing.sha256 = hashing.sha256_cbor = sha256_cbor
hashing.get_hash_fn_by_name = get_hash_fn_by_name
core = types.ModuleType("vllm.v1.core.kv_cache_utils")
core.init_none_hash = init_none_hash
for module in (hashing, core):
    parts = module.__name__.split(".")
    for depth in range(1, len(parts)):
        name = ".".join(parts[:depth])
        package = sys.modules.setdefault(name, types.ModuleType(name))
        package.__path__ = []
    sys.modules[module.__name__] = module
    setattr(sys.modules[".".join(parts[:-1])], parts[-1], module)

import torch  # noqa: E402
from lmcache.v1.config import LMCacheEngineConfig  # noqa: E402
from lmcache.v1.token_database import ChunkedTokenDatabase  # noqa: E402

config = LMCacheEngineConfig.from_file(sys.argv[1])
if len(sys.argv) > 2:
    config.pre_caching_hash_algorithm = sys.argv[2]
metadata = types.SimpleNamespace(
    fmt="vllm", model_name="model", world_size=1, worker_id=0, kv_dtype=torch.bfloat16, use_mla=False
)
database = ChunkedTokenDatabase(config, metadata)
print("keys:", *(key.to_string() for _, _, key in database.process_tokens(list(range(2 * config.chunk_size)))))
