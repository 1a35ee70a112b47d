"""What `demo --full` shows: a vLLM engine on the installed LMCache, before and after the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gaudi_patch.output.report import Block, Table

if TYPE_CHECKING:
    from gaudi_patch.smoke.outcome import LevelResult

LEVELS = ("connector", "inference")
#: Of level inference, what the unpatched release is put through: as many cases as the comparison shows.
STOCK_ARGUMENTS = {"inference": ("--cases", "answers")}


def blocks(stock: Sequence[LevelResult], patched: Sequence[LevelResult]) -> list[Block]:
    """Request by request, what was asked and answered, and how much of it came from LMCache."""
    before, after = _requests(stock), _requests(patched)
    found: list[Block] = []
    if after:
        head = ("request", "prompt", "vLLM had", "LMCache had", "stock", "answer (tokens)", "time")
        title = (
            "vLLM on the patched LMCache (lazy rules, a tiny model); stock: what LMCache as released had; "
            "control: its KV was spoilt on purpose, so the answer must be another one"
        )
        rows = [_row(name, request, before.get(name)) for name, request in after.items()]
        found.append(Table(head, rows, title))
    return found


def _requests(results: Sequence[LevelResult]) -> dict[str, dict[str, Any]]:
    """The requests of case ``answers``, by name; of several given at once, the first."""
    found: dict[str, dict[str, Any]] = {}
    for one in results:
        if one.level == "inference":
            for request in one.counters.get("answers", {}).get("requests", []):
                found.setdefault(request["request"], request)
    return found


def _row(name: str, request: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[str, ...]:
    return (
        name,
        str(request["prompt"]),
        str(request["vllm"]),
        str(request["lmcache"]),
        str(before["lmcache"]) if before else "-",
        " ".join(map(str, request["answer"])),
        f"{request['seconds']:.3f} s",
    )
