"""Prompts as token numbers, what the cache must say of them, and what the model must answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, beside this file
    import _probe

    from _vllm import engine as vllm_engine
    from _vllm import setup as vllm_setup

ANSWER = 8


def prompt(seed: int, length: int, vocabulary: int) -> list[int]:
    """Return a prompt of random tokens."""
    source = random.Random(seed)  # noqa: S311  nothing secret
    return [source.randrange(3, vocabulary) for _ in range(length)]


def vocabulary(folder: Path) -> int:
    """Return the number of tokens that the checkpoint knows."""
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def expected_hit(engine: vllm_engine.Engine, stored: int, length: int, shared: int, local: int = 0) -> int:
    """Return how many tokens the connector must add for a prompt.

    stored: the length of the prompt that was stored. length: of the prompt that is looked up. shared: how many tokens
    both begin with. local: what vLLM has itself.

    LMCache serves whole chunks; a last chunk that is not full, where it is stored at all, serves the very same prompt
    only. Of a prompt that is cached whole, the last token is computed all the same.
    """
    chunk = vllm_setup.chunk_size()
    found = stored if engine.saves_tails and shared == length == stored else shared // chunk * chunk
    if found == length:
        found -= 1
    return max(0, found - local)


class Reference:
    """The right answers: of the same weights without engine, pages and device, where they can be had.

    Else (a checkpoint of the user's, or bfloat16, whose ties another order of summation decides otherwise) what the
    engine itself answers without LMCache, which has to be noted.
    """

    def __init__(self, folder: Path, dtype: str, *, available: bool) -> None:
        self._folder, self._dtype, self.available = folder, dtype, available
        self._known: dict[tuple[int, ...], list[int]] = {}

    def answer(self, tokens: Sequence[int], count: int = ANSWER) -> list[int] | None:
        """Return the right continuation; None where it has to be noted and was not yet."""
        key = (*tokens, -count)
        if key not in self._known and self.available:
            torch = _probe.load("torch")
            models: Foreign = _probe.load("gaudi_smoke_hpu.models")
            dtype = getattr(torch, self._dtype)
            self._known[key] = models.reference(self._folder, dtype, list(tokens), count)
        return self._known.get(key)

    def note(self, tokens: Sequence[int], answer: list[int]) -> None:
        """The engine's answer without LMCache; where nothing can be computed, it is the right one."""
        if not self.available:
            key = (*tokens, -len(answer))
            self._known[key] = answer
