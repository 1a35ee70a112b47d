"""The workload: shapes of models, context lengths, and how much of them fits into memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.sizing.plan import GIB

#: LMCache's default chunk size and vllm-gaudi's default block size, in tokens.
CHUNK, BLOCK = 256, 128
_ELEMENT = 2  # bytes of a bfloat16
# A measuring process without caches and memory objects: PyTorch, LMCache and the blocks for memcpy.
_PROCESS_BYTES = 2 * GIB
# The runtime's pinned ring and its buffers on the device, for groups of eight chunks.
_STAGED_CHUNKS = 40
# Fewer tokens would fit in a processor's cache, and so would their memcpy.
_LEAST_HELD = 8 * CHUNK


@dataclass(frozen=True)
class Shape:
    """The KV cache of one process that serves a model, in bfloat16.

    heads: KV heads per layer. mla: one latent vector per token and layer instead of K and V.
    """

    name: str
    title: str
    layers: int
    heads: int
    head_size: int
    mla: bool = False

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token over all layers."""
        return (1 if self.mla else 2) * self.layers * self.heads * self.head_size * _ELEMENT


SHAPES = (
    Shape("8b", "Llama-3.1-8B", 32, 8, 128),
    Shape("70b-tp8", "Llama-3.1-70B, one of 8 ranks", 80, 1, 128),
    Shape("mla", "DeepSeek-V3, MLA", 61, 1, 576, mla=True),
)
CONTEXTS = "2K,8K,32K,128K,256K"
#: What KV is moved through: LMCache's connector alone, its engine, or the worker of its multiprocess mode.
THROUGH = ("connector", "engine", "multiprocess")


@dataclass(frozen=True)
class Skipped:
    """A length that was not measured, and why."""

    shape: str
    tokens: int
    reason: str


def shapes_of(text: str) -> list[Shape]:
    """Return the shapes named in a comma-separated list.

    Raises ``usage`` for an unknown name and for an empty list.
    """
    names = _words(text)
    known = {shape.name: shape for shape in SHAPES}
    if not names or not set(names) <= set(known):
        raise _usage("--shapes", f"some of {', '.join(known)}", text)
    return [shape for shape in SHAPES if shape.name in names]


def contexts_of(text: str) -> list[int]:
    """Return the context lengths in tokens, ascending: ``2K`` is 2048.

    Raises ``usage`` for an invalid length, or one shorter than two chunks.
    """
    lengths = set()
    for word in _words(text):
        match = re.fullmatch(r"([0-9]{1,7})([Kk]?)", word)
        if not match:
            raise _usage("--contexts", f"lengths in tokens, e.g. {CONTEXTS}", text)
        lengths.add(int(match[1]) * (1024 if match[2] else 1))
    if not lengths or min(lengths) < 2 * CHUNK:
        raise _usage("--contexts", f"lengths of at least {2 * CHUNK} tokens, e.g. {CONTEXTS}", text)
    return sorted(lengths)


def through_of(text: str, contexts: Sequence[int]) -> str:
    """Return the way of the KV.

    Raises ``usage`` for an unknown one, and for lengths that it cannot move: multiprocess mode has whole chunks only.
    """
    if text not in THROUGH:
        raise _usage("--through", f"one of {', '.join(THROUGH)}", text)
    if text == "multiprocess" and (parts := [tokens for tokens in contexts if tokens % CHUNK]):
        raise _usage("--contexts", f"multiples of {CHUNK} tokens with --through multiprocess", str(parts[0]))
    return text


def needed_bytes(shape: Shape, held: int) -> int:
    """Return the host memory in bytes of a measuring process on the emulated HPU that holds ``held`` tokens.

    The tokens are held twice, in the caches and in memory objects; buffers are added.
    """
    return (2 * held + _STAGED_CHUNKS * CHUNK) * shape.token_bytes + _PROCESS_BYTES


def held_tokens(shape: Shape, contexts: Sequence[int], limit: int) -> int:
    """Return the number of tokens to hold: the longest context, or the whole chunks that fit into ``limit`` bytes.

    A longer request reuses the same slots and memory objects: the device gets the same work and moves as many bytes.
    Return 0 if the limit is too small to be useful.
    """
    longest = max(contexts)
    if needed_bytes(shape, longest) <= limit:
        return longest
    held = (limit - needed_bytes(shape, 0)) // (2 * shape.token_bytes) // CHUNK * CHUNK
    return held if held >= min(longest, _LEAST_HELD) else 0


def whole_lengths(shape: Shape, contexts: Sequence[int], limit: int) -> list[int]:
    """Return the lengths of which all tokens fit into ``limit`` bytes: LMCache's engine holds a prompt only once."""
    return [tokens for tokens in contexts if needed_bytes(shape, tokens) <= limit]


def none_fits(shape: Shape, contexts: Sequence[int], limit: int) -> list[Skipped]:
    """Return all lengths as skipped, with the memory that the least of them needs."""
    return _skipped(shape, contexts, needed_bytes(shape, min(max(contexts), _LEAST_HELD)), limit)


def too_long(shape: Shape, contexts: Sequence[int], limit: int) -> list[Skipped]:
    """Return these lengths as skipped, each with the memory that all of its tokens need."""
    return [one for tokens in contexts for one in _skipped(shape, [tokens], needed_bytes(shape, tokens), limit)]


def _skipped(shape: Shape, contexts: Sequence[int], needed: int, limit: int) -> list[Skipped]:
    reason = f"needs {needed / GIB:.1f} GiB of memory, {limit / GIB:.1f} GiB are allowed"
    return [Skipped(shape.name, tokens, reason) for tokens in contexts]


def length_text(tokens: int) -> str:
    """Return ``2K`` for 2048."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _usage(option: str, allowed: str, text: str) -> GaudiPatchError:
    return GaudiPatchError(Exit.USAGE, "usage", f"{option} must be {allowed}, not {text!r}")
