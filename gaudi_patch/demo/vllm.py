"""A vLLM engine on the installed LMCache, before and after the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gaudi_patch.smoke.counted import Asked
from gaudi_patch.smoke.outcome import LevelResult

LEVELS = ("connector", "inference")
#: Of level inference, what the unpatched release is put through: as many cases as the comparison shows.
STOCK_ARGUMENTS = {"inference": ("--cases", "answers")}


class Answered(NamedTuple):
    """One request to the vLLM engine: tokens that vLLM and LMCache had, before the patch too, and the answer.

    ``stock`` is None where the unpatched release did not get so far.
    """

    name: str
    prompt: int
    vllm: int
    lmcache: int
    stock: int | None
    answer: Sequence[int]
    seconds: float


def answered(stock: Sequence[LevelResult], patched: Sequence[LevelResult]) -> list[Answered]:
    """Return, request by request, what was asked and answered, and how much of it came from LMCache."""
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
    """Return the requests of case ``answers``, by name; of several given at once, the first."""
    requests: dict[str, Asked] = {}
    for level in results:
        if level.level == "inference":
            for asked in level.counters.requests.get("answers", ()):
                requests.setdefault(asked.request, asked)
    return requests
