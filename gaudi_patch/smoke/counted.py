"""The failed checks and counters of a probe's result file, read into types once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class BadResultError(ValueError):
    """A probe's result file is missing, incomplete or not in the form agreed on."""


_WRONG = "its result lacks a field or has one of the wrong type"


@dataclass(frozen=True)
class Failure:
    """One failed check: its name, what is wrong, and whatever else the probe adds (JSON) to find the fault."""

    check: str
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, document: object) -> Failure:
        """Read one from a result file. Raises BadResultError."""
        if not isinstance(document, dict):
            raise BadResultError(_WRONG)
        check, message = document.get("check"), document.get("message")
        if not isinstance(check, str) or not isinstance(message, str):
            raise BadResultError(_WRONG)
        return cls(check, message, {key: value for key, value in document.items() if key not in ("check", "message")})

    def to_json(self) -> dict[str, Any]:
        """Return it as the result file has it, and as it is published."""
        return {"check": self.check, "message": self.message, **self.detail}


class Asked(NamedTuple):
    """One request to a vLLM engine.

    ``prompt``: its tokens; ``vllm`` and ``lmcache``: those that each had cached; ``answer``: the tokens generated.
    """

    request: str
    prompt: int
    vllm: int
    lmcache: int
    seconds: float
    answer: tuple[int, ...]

    @classmethod
    def read(cls, document: object) -> Asked:
        """Read one from a result file. Raises BadResultError."""
        if not isinstance(document, dict):
            raise BadResultError(_WRONG)
        name, seconds, answer = (document.get(key) for key in ("request", "seconds", "answer"))
        prompt, vllm, lmcache = (document.get(key) for key in ("prompt", "vllm", "lmcache"))
        if not (
            isinstance(name, str)
            and type(prompt) is int
            and type(vllm) is int
            and type(lmcache) is int
            and type(seconds) in (int, float)
            and isinstance(answer, list)
            and all(type(token) is int for token in answer)
        ):
            raise BadResultError(_WRONG)
        return cls(name, prompt, vllm, lmcache, float(seconds), tuple(answer))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Counters:
    """What a level counted. Each level has figures of its own; ``document`` is the JSON of all of them, as published.

    What the program itself reads of it: ``totals``, numbers of the whole level; ``workloads``, numbers by workload or
    case; ``requests``, those to a vLLM engine, by case.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    workloads: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    requests: Mapping[str, tuple[Asked, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, document: object) -> Counters:
        """Read the counters of a result file. Raises BadResultError."""
        if not isinstance(document, dict):
            raise BadResultError(_WRONG)
        totals = {name: value for name, value in document.items() if type(value) is int}
        tables = {name: value for name, value in document.items() if isinstance(value, dict)}
        workloads = {
            name: {key: number for key, number in table.items() if type(number) is int}
            for name, table in tables.items()
        }
        lists = {name: asked for name, table in tables.items() if isinstance(asked := table.get("requests"), list)}
        requests = {name: tuple(map(Asked.read, documents)) for name, documents in lists.items()}
        return cls(document, totals, workloads, requests)
