# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- vLLM's objects differ between releases and have no types here
"""Add what identifies a request besides its tokens to LMCache's keys.

The same tokens have another KV under another LoRA adapter, and must not be shared between cache salts (vLLM:
``v1/core/kv_cache_utils.py``, ``generate_block_hash_extra_keys``). LMCache's keys know the tokens only. What a key has
room for is used: a tag (``lmcache.tag.*`` of the request's configuration) in the process's own cache, the salt in
multiprocess mode. A request without any of them has the key that it always had.

Used on every device, so that hosts with and without Gaudi agree on a shared store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = ["image_tokens", "salt", "tag"]

_TAGS = "lmcache.tag."
_TAG = _TAGS + "identity"
_SALT_PREFIX = "identity-"
#: Characters that LMCache refuses in a salt (lmcache/v1/multiprocess/custom_types.py), and its longest salt.
_FORBIDDEN = frozenset("@/\\\0")
_LONGEST = 128
_TOKEN_MASK = 0x7FFF_FFFF


def tag(request: Any, configs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the request's configuration with its identity as a tag of the key.

    Args:
        request: vLLM's ``Request``.
        configs: What LMCache read from the request's parameters; a client's own tags stay, or their digest where they
            are no plain values. One in the place of the identity does not.

    Returns:
        None as LMCache has it, where there is nothing.
    """
    tagged = {name: _plain(name, value) for name, value in (configs or {}).items() if name != _TAG}
    if identity := _identity(request, images=False):
        tagged[_TAG] = _digest(identity)
    return tagged or None


def salt(request: Any, *, images: bool = False) -> str:
    """Return the salt of a request's keys in multiprocess mode.

    Args:
        request: vLLM's ``Request``.
        images: Whether images are part of it, in the releases whose multiprocess keys do not know them.

    Returns:
        The request's own salt where that is all its identity, and a digest otherwise. A digest stands for a salt that
        LMCache would refuse, too, which would end the engine.
    """
    given = str(getattr(request, "cache_salt", None) or "")
    identity = _identity(request, images=images)
    plain = len(given) <= _LONGEST and not _FORBIDDEN & set(given) and not given.startswith(_SALT_PREFIX)
    if plain and set(identity) <= {"salt"}:
        return given
    return _SALT_PREFIX + _digest(identity)


def image_tokens(identifier: object, count: int) -> Any:
    """Return the pseudo-tokens that stand for an image in the keys, int64 ``[count]``.

    Releases up to 0.5.4 repeat 16 bits of the image's hash, so that one of 65,536 images is taken for another. These
    are the values of 0.5.5 and later: 31 bits of SHA-256 a token, from the whole identifier.
    """
    import torch

    seed = hashlib.sha256(str(identifier).encode()).digest()
    stream = b"".join(hashlib.sha256(seed + block.to_bytes(8, "big")).digest() for block in range(-(-count // 8)))
    words = memoryview(stream).cast("B")
    values = [int.from_bytes(words[4 * n : 4 * n + 4], "big") & _TOKEN_MASK for n in range(count)]
    return torch.tensor(values, dtype=torch.int64)


def _plain(name: str, value: Any) -> Any:
    """Return a setting of a request; a tag of lists or objects as its digest. Keys are hashed, and they cannot be."""
    return _digest({"value": repr(value)}) if name.startswith(_TAGS) and isinstance(value, list | dict) else value


def _identity(request: Any, *, images: bool) -> dict[str, str]:
    """Return the parts of the identity other than tokens, by name; empty for a plain request."""
    identity = {}
    if (adapter := getattr(request, "lora_request", None)) is not None:
        # The number that vLLM gives an adapter depends on the order in which a process first used them.
        identity["lora"] = f"{adapter.lora_name}\0{adapter.lora_path}"
    if given := getattr(request, "cache_salt", None):
        identity["salt"] = str(given)
    if (embeds := getattr(request, "prompt_embeds", None)) is not None:
        # vLLM counts zeros as the tokens of such a prompt.
        identity["embeds"] = hashlib.sha256(_bytes(embeds)).hexdigest()
    if images and (found := _images(request)):
        identity["images"] = found
    return identity


def _bytes(tensor: Any) -> bytes:
    import torch

    data: bytes = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return data


def _images(request: Any) -> str:
    features = getattr(request, "mm_features", None)
    if features is not None:
        return "\0".join(f"{one.identifier}@{one.mm_position.offset}+{one.mm_position.length}" for one in features)
    hashes, positions = getattr(request, "mm_hashes", None) or [], getattr(request, "mm_positions", None) or []
    return "\0".join(f"{name}@{place.offset}+{place.length}" for name, place in zip(hashes, positions, strict=True))


def _digest(identity: Mapping[str, str]) -> str:
    """Return the SHA-256 of names and values, each with its length, so that no two identities collide."""
    text = "".join(f"{name}={len(value)}:{value};" for name, value in sorted(identity.items()))
    return hashlib.sha256(text.encode()).hexdigest()
