"""Prompts as token ids, their expected cache hits, and their expected answers."""

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
    """Return the size of the checkpoint's vocabulary."""
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def expected_hit(engine: vllm_engine.Engine, stored: int, length: int, shared: int, local: int = 0) -> int:
    """Return the number of tokens that the connector must add for a prompt.

    stored: the stored prompt's length. length: the looked-up prompt's length. shared: the length of their common
    prefix. local: the tokens that vLLM itself has. All are in tokens.

    LMCache serves whole chunks; a partial last chunk, if stored, serves only the same prompt. The last token of a
    completely cached prompt is still computed.
    """
    chunk = vllm_setup.chunk_size()
    found = stored if engine.saves_tails and shared == length == stored else shared // chunk * chunk
    if found == length:
        found -= 1
    return max(0, found - local)


class Reference:
    """The right answers, from the same weights without engine, pages and device, if possible.

    Otherwise (a user's checkpoint, or bfloat16, whose ties depend on the order of summation) the engine's own answers
    without LMCache, which must be noted first.
    """

    def __init__(self, folder: Path, dtype: str, *, available: bool) -> None:
        self._folder, self._dtype, self.available = folder, dtype, available
        self._known: dict[tuple[int, ...], list[int]] = {}

    def answer(self, tokens: Sequence[int], count: int = ANSWER) -> list[int] | None:
        """Return the right continuation; None if it must be noted and was not yet."""
        key = (*tokens, -count)
        if key not in self._known and self.available:
            torch = _probe.load("torch")
            models: Foreign = _probe.load("gaudi_smoke_hpu.models")
            dtype = getattr(torch, self._dtype)
            self._known[key] = models.reference(self._folder, dtype, list(tokens), count)
        return self._known.get(key)

    def note(self, tokens: Sequence[int], answer: list[int]) -> None:
        """Note the engine's answer without LMCache, which counts as right if none can be computed."""
        if not self.available:
            key = (*tokens, -len(answer))
            self._known[key] = answer
