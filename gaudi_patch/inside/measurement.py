"""Used by `bench` and by its measuring process in the target: what is to be measured, and the figures for it.

Imports nothing of gaudi_patch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Work:
    """One shape of a model, and the code to measure.

    heads: KV heads per layer. held: tokens that memory holds. chunk, block: in tokens. tree: a directory that comes
    first on sys.path, "" where the installed code is measured. expected: how the path of LMCache must begin.
    """

    layers: int
    heads: int
    head_size: int
    mla: bool
    token_bytes: int
    contexts: tuple[int, ...]
    held: int
    chunk: int
    block: int
    tree: str
    expected: str

    def to_text(self) -> str:
        """Return the form in which it goes to the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Work:
        """Read what `to_text` wrote."""
        document: dict[str, Any] = json.loads(text)
        return cls(**{**document, "contexts": tuple(document["contexts"])})


@dataclass(frozen=True)
class Figures:
    """One direction of one request by one code.

    bytes: of the KV that moves. held: tokens in memory; a longer request goes over them again and again. counts: of
    the device; empty where it does not count. compiled_for_other: graphs that a prompt of another length compiles
    after that. seconds, memcpy_seconds: the fastest of ``runs`` by the clock; cpu_seconds: of all processors of this
    host together, which a busy machine does not lengthen.
    """

    tokens: int
    held: int
    direction: str
    bytes: int
    counts: Mapping[str, int]
    other_tokens: int
    compiled_for_other: int | None
    seconds: float
    cpu_seconds: float
    memcpy_seconds: float
    memcpy_cpu_seconds: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, each figure under its name."""
        return {**vars(self), "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, document: object) -> Figures:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        if not isinstance(document, dict) or set(document) != {field.name for field in fields(cls)}:
            raise ValueError("not the figures of a request")
        whole = ("tokens", "held", "bytes", "other_tokens", "runs")
        times = ("seconds", "cpu_seconds", "memcpy_seconds", "memcpy_cpu_seconds")
        counts, compiled = document["counts"], document["compiled_for_other"]
        if not (
            all(type(document[name]) is int and document[name] >= 0 for name in whole)
            and all(type(document[name]) in (int, float) and document[name] > 0 for name in times)
            and document["direction"] in ("store", "load")
            and (compiled is None or type(compiled) is int)
            and isinstance(counts, dict)
            and all(type(number) is int for number in counts.values())
        ):
            raise ValueError("figures of a request that cannot be")
        return cls(**document)
