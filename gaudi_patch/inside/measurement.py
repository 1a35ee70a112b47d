"""The work to measure and its figures, shared by `bench` and its measuring process in the target.

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

    heads: KV heads per layer. held: tokens held in memory. chunk, block: in tokens. tree: a directory to put first on
    sys.path, "" to measure the installed code. expected: required prefix of LMCache's path. through: ``connector``,
    ``engine`` or ``multiprocess``. pinned: whether the patched code may pin memory objects; otherwise it uses its ring.
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
    through: str = "connector"
    pinned: bool = True

    def to_text(self) -> str:
        """Return the JSON text passed to the measuring process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Work:
        """Parse the output of `to_text`."""
        document: dict[str, Any] = json.loads(text)
        return cls(**{**document, "contexts": tuple(document["contexts"])})


@dataclass(frozen=True)
class Figures:
    """One direction of one request by one code.

    bytes: of the KV that moves. held: tokens in memory; a longer request reuses them. counts: of the device; empty if
    it does not count. compiled_for_other: graphs compiled afterwards for a prompt of another length. seconds,
    memcpy_seconds: wall-clock time of the fastest of ``runs``. cpu_seconds: CPU time of all processors of this host,
    which other load does not lengthen.
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
        """Return the JSON form, with each figure under its name."""
        return {**vars(self), "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, document: object) -> Figures:
        """Parse the output of `to_json`. Raises ValueError for anything else."""
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
            raise ValueError("impossible figures of a request")
        return cls(**document)
