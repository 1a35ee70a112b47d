"""Draw bars in a terminal: unpatched above patched, for each shape and direction. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gaudi_patch.bench.points import DIRECTIONS, Pair, Point, length
from gaudi_patch.bench.workload import SHAPES

WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Bar(NamedTuple):
    """One bar: request, code, value and text."""

    group: str
    code: str
    value: float
    text: str


class Metric(NamedTuple):
    """A figure of a point: its title, its value (None: not counted), its text."""

    title: str
    value: Callable[[Point], float | None]
    text: Callable[[float], str]


METRICS = (
    Metric(
        "Time, as a multiple of a memcpy of the same bytes",
        lambda measured: measured.times_memcpy,
        lambda x: f"{x:.1f}x",
    ),
    Metric("Graph launches", lambda measured: measured.counts.get("graph_launches"), lambda x: f"{x:.0f}"),
)


def longest(pairs: Sequence[Pair]) -> list[Pair]:
    """Return, for each shape and direction, the longest request measured on both sides, else the longest of all."""
    chosen = []
    for shape in SHAPES:
        for direction in DIRECTIONS:
            of = [pair for pair in pairs if (pair.shape, pair.direction) == (shape.name, direction)]
            if of:
                chosen.append(max(of, key=lambda pair: (None not in (pair.stock, pair.patched), pair.tokens)))
    return chosen


def bars(pairs: Sequence[Pair], metric: Metric) -> list[Bar]:
    """Return the bars of these requests; a side without a figure has no bar."""
    found = []
    for pair in pairs:
        group = f"{pair.shape} {length(pair)} {pair.direction}"
        for point in (pair.stock, pair.ring, pair.patched):
            value = None if point is None else metric.value(point)
            if point is not None and value is not None:
                found.append(Bar(group, point.code, value, metric.text(value)))
    return found


def draw(title: str, shown: Sequence[Bar], *, ascii_only: bool) -> str:
    """Return the chart in at most 80 columns; the longest bar has ``WIDTH`` columns."""
    most = max((drawn.value for drawn in shown), default=0.0)
    if not most:
        return ""
    names = max(len(drawn.group) for drawn in shown)
    lines = [title]
    before = ""
    for drawn in shown:
        length = drawn.value / most * WIDTH
        bar = "#" * max(1, round(length)) if ascii_only else _blocks(length)
        lines.append(f"  {drawn.group if drawn.group != before else '':<{names}}  {drawn.code:<7}  {bar} {drawn.text}")
        before = drawn.group
    return "\n".join(lines) + "\n"


def _blocks(length: float) -> str:
    eighths = max(1, round(length * 8))
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
