"""A vLLM engine on the installed LMCache, before and after the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gaudi_patch.smoke.counted import Asked
from gaudi_patch.smoke.outcome import LevelResult

LEVELS = ("connector", "inference")
#: Level inference runs only the cases that the comparison shows on the unpatched release.
STOCK_ARGUMENTS = {"inference": ("--cases", "answers")}


class Answered(NamedTuple):
    """One request to the vLLM engine: its prompt tokens, those cached by vLLM and by LMCache, and the answer.

    ``stock``: the tokens cached by the unpatched LMCache, None if it did not get so far.
    """

    name: str
    prompt: int
    vllm: int
    lmcache: int
    stock: int | None
    answer: Sequence[int]
    seconds: float


def answered(stock: Sequence[LevelResult], patched: Sequence[LevelResult]) -> list[Answered]:
    """Return each request with its answer, and the number of tokens that came from LMCache."""
    before = _requests(stock)
    return [
        Answered(
            name,
            asked.prompt,
            asked.vllm,
            asked.lmcache,
            before[name].lmcache if name in before else None,
            asked.answer,
            asked.seconds,
        )
        for name, asked in _requests(patched).items()
    ]


def _requests(results: Sequence[LevelResult]) -> dict[str, Asked]:
    """Return the requests of case ``answers``, by name; the first of several sent at once."""
    requests: dict[str, Asked] = {}
    for level in results:
        if level.level == "inference":
            for asked in level.counters.requests.get("answers", ()):
                requests.setdefault(asked.request, asked)
    return requests
