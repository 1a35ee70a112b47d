"""Random mixes of requests, and the tokens that a cache must have for each; pure, and repeatable by number.

A mix is a handful of requests that are served one after the other. Their prompts are cut from a few documents at
lengths around chunks and blocks, with tails of their own, so that they share prefixes of every kind. They come with
LoRA adapters and cache salts, with a prefix that vLLM has cached itself, and in prefill steps of several lengths. Some
are preempted. No two mixes share a document, so each can be generated alone from its number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

VOCABULARY = 100_000
_IDENTITIES = (("", ""),) * 2 + (("", "tenant-1"), ("", "tenant-2"), ("adapter-a", ""), ("adapter-a", "tenant-1"))


@dataclass(frozen=True)
class Request:
    """A request.

    tokens: the prompt. adapter, salt: its owner; empty: none. local: leading tokens that vLLM has itself, in whole
    blocks. step: tokens per prefill step. outputs: if not 0, the request is preempted halfway and resumed with this
    many tokens of its answer.
    """

    tokens: tuple[int, ...]
    adapter: str = ""
    salt: str = ""
    local: int = 0
    step: int = 1 << 30
    outputs: int = 0

    @property
    def identity(self) -> tuple[str, str]:
        """Return what separates its KV from that of other requests with the same tokens."""
        return self.adapter, self.salt


def mix(number: int, *, chunk: int, block: int, longest: int) -> list[Request]:
    """Return the requests of a mix.

    Args:
        number: The mix's number.
        chunk: LMCache's chunk in tokens.
        block: vLLM's block in tokens.
        longest: Tokens of the longest prompt.
    """
    source = random.Random(f"mix {number}")

    def words(length: int) -> list[int]:
        return [source.randrange(VOCABULARY) for _ in range(length)]

    documents = [words(longest) for _ in range(source.choice((1, 2, 3)))]
    requests: list[Request] = []
    for _ in range(source.randrange(4, 9)):
        if requests and source.random() < 0.35:  # repeat a prompt, for the same or another owner
            tokens = source.choice(requests).tokens
        else:
            unit = source.choice((chunk, chunk, block, 1))
            cut = source.randrange(longest // unit + 1) * unit + source.choice((0, 0, 0, -1, 1))
            tail = source.choice((0, 0, 1, block - 1, block, chunk, source.randrange(2 * chunk)))
            tokens = tuple([*source.choice(documents)[: max(cut, 0)], *words(tail)][:longest] or words(1))
        adapter, salt = source.choice(_IDENTITIES)
        local = source.choice((0, 0, source.randrange((len(tokens) - 1) // block + 1) * block))
        step = source.choice((longest, longest, chunk, 3 * block, 2 * chunk + block))
        outputs = source.choice((1, 2, 3)) if source.random() < 0.15 else 0
        requests.append(Request(tokens, adapter, salt, local, step, outputs))
    return requests


class Stored:
    """The contents of a cache with room for everything, after the requests served so far.

    Args:
        chunk: LMCache's chunk in tokens.
        tails: Whether a partial last chunk is stored, too.
    """

    def __init__(self, chunk: int, *, tails: bool) -> None:
        self._chunk, self._tails = chunk, tails
        self._known: dict[tuple[str, str], set[tuple[int, ...]]] = {}

    def note(self, request: Request, tokens: Sequence[int]) -> None:
        """Record what was stored for a request."""
        self._known.setdefault(request.identity, set()).add(tuple(tokens))

    def due(self, request: Request) -> int:
        """Return the exact number of leading tokens due from the cache: whole chunks, or a whole repeated prompt."""
        known = self._known.get(request.identity, set())
        if self._tails and request.tokens in known:
            return len(request.tokens)
        return max((_common(request.tokens, other) // self._chunk * self._chunk for other in known), default=0)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for number, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return number
    return min(len(one), len(other))
