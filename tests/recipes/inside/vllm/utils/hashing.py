"""vLLM's hashes of keys: digests, as bytes."""

import hashlib


def sha256_cbor(value: object) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()


sha256 = sha256_cbor


def get_hash_fn_by_name(name: str) -> object:
    if name != "sha256_cbor":
        raise ValueError(name)
    return sha256_cbor
