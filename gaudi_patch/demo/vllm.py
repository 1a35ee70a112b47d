"""A vLLM engine on the installed LMCache, before and after the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
            request["prompt"],
            request["vllm"],
            request["lmcache"],
            before[name]["lmcache"] if name in before else None,
            request["answer"],
            request["seconds"],
        )
        for name, request in _requests(patched).items()
    ]


def _requests(results: Sequence[LevelResult]) -> dict[str, dict[str, Any]]:
    """Return the requests of case ``answers``, by name; of several given at once, the first."""
    answers: dict[str, dict[str, Any]] = {}
    for level in results:
        if level.level == "inference":
            for request in level.counters.get("answers", {}).get("requests", []):
                answers.setdefault(request["request"], request)
    return answers
