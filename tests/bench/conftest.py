"""Points in the form that measuring processes report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gaudi_patch.bench.points import Point

MakePoint = Callable[..., Point]


@pytest.fixture
def make_point() -> MakePoint:
    """``make_point(code, shape="8b", tokens=2048, direction="store", launches=..., seconds=...)``."""

    def make(
        code: str,
        *,
        shape: str = "8b",
        tokens: int = 2048,
        direction: str = "store",
        launches: int | None = 8,
        seconds: float = 0.5,
        **others: Any,
    ) -> Point:
        counts = {} if launches is None else {"graph_launches": launches, "graph_compilation": 3, "device_syncs": 1}
        if launches is not None:
            counts |= {"h2d_copies": 2, "d2h_copies": 5, "bounce_bytes": 500, "device_traffic_bytes": 4000}
        values: dict[str, Any] = {
            "bytes": 1000,
            "held": tokens,
            "counts": counts,
            "other_tokens": tokens - 300,
            "compiled_for_other": 1,
            "cpu_seconds": seconds * 1.5,
            "memcpy_seconds": 0.1,
            "memcpy_cpu_seconds": 0.1,
            "runs": 3,
        }
        return Point(code=code, shape=shape, tokens=tokens, direction=direction, seconds=seconds, **values | others)

    return make
