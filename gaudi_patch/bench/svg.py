"""The bar chart as an SVG of its own, for a report: no script, no font, no link. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from gaudi_patch.bench.chart import METRICS, Metric
from gaudi_patch.bench.points import DIRECTIONS, Pair, length
from gaudi_patch.bench.workload import SHAPES

PANEL, GAP, LEFT, TOP, BAR = (340, 164), (40, 48), 24, 82, 24
# Readable on white and on black; the two colours also differ in brightness.
_STYLE = """
svg { font: 12px system-ui, sans-serif; background: #ffffff }
text { fill: #1f2328 } .title { font-size: 16px; font-weight: 600 }
.head { font-weight: 600 } .small { font-size: 10px }
.axis { stroke: #8c959f; stroke-width: 1 } .stock { fill: #c2410c } .patched { fill: #0e7490 }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117 } text { fill: #e6edf3 } .stock { fill: #fb923c } .patched { fill: #22d3ee } }
"""


def draw(pairs: Sequence[Pair], title: str, subtitle: str) -> str:
    """One panel a shape, direction and figure; a group of two bars a context length.

    Launches differ by orders of magnitude: their bars are logarithmic, and say so.
    """
    cells = [(shape.name, direction) for shape in SHAPES for direction in DIRECTIONS]
    shown = [cell for cell in cells if any((one.shape, one.direction) == cell for one in pairs)]
    width = LEFT * 2 + len(METRICS) * PANEL[0] + (len(METRICS) - 1) * GAP[0]
    height = TOP + len(shown) * (PANEL[1] + GAP[1])
    size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}", "role": "img"}
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    ElementTree.SubElement(root, "title").text = title
    ElementTree.SubElement(root, "style").text = _STYLE
    _text(root, LEFT, 26, title, "title")
    if any(length(pair).endswith("*") for pair in pairs):
        subtitle += " *: memory held fewer tokens; slots and memory objects repeat."
    _text(root, LEFT, 45, subtitle, "small")
    _legend(root, width)
    for row, cell in enumerate(shown):
        for column, metric in enumerate(METRICS):
            x, y = LEFT + column * (PANEL[0] + GAP[0]), TOP + row * (PANEL[1] + GAP[1])
            _panel(root, x, y, metric, [one for one in pairs if (one.shape, one.direction) == cell])
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _panel(root: ElementTree.Element, x: int, y: int, metric: Metric, pairs: Sequence[Pair]) -> None:
    panel = ElementTree.SubElement(root, "g", {"class": "panel"})
    title = next(shape.title for shape in SHAPES if shape.name == pairs[0].shape)
    figure = metric.title[0].lower() + metric.title[1:] + ("" if metric is METRICS[0] else " (log scale)")
    _text(panel, x, y, title, "head")
    _text(panel, x, y + 15, f"{pairs[0].direction}: {figure}", "small")
    values = [
        (pair, point.code, metric.value(point)) for pair in pairs for point in (pair.stock, pair.patched) if point
    ]
    scaled = {value: _scale(metric, value) for _, _, value in values if value is not None}
    most = max(scaled.values(), default=1.0) or 1.0
    floor, tall = y + PANEL[1], PANEL[1] - 44
    step = PANEL[0] / len(pairs)
    for number, pair in enumerate(pairs):
        middle = x + step * (number + 0.5)
        _text(panel, middle, floor + 14, length(pair), "small", "middle")
        for side, code in enumerate(("stock", "patched")):
            value = next((v for p, c, v in values if p is pair and c == code), None)
            left = middle + (1 if side else -1 - BAR)
            if value is None:
                _text(panel, left + BAR / 2, floor - 4, "-", "small", "middle")
                continue
            high = max(1.0, scaled[value] / most * tall)
            box = {"x": left, "y": floor - high, "width": BAR, "height": high}
            bar = ElementTree.SubElement(
                panel, "rect", {name: f"{pixels:.1f}" for name, pixels in box.items()} | {"class": f"bar {code}"}
            )
            told = f"{code}, {length(pair)} tokens: {metric.text(value)}"
            ElementTree.SubElement(bar, "title").text = told
            _text(panel, left + BAR / 2, floor - high - 4, metric.text(value), "small", "middle")
    axis = {"x1": x, "x2": x + PANEL[0], "y1": floor, "y2": floor}
    ElementTree.SubElement(panel, "line", {name: str(at) for name, at in axis.items()} | {"class": "axis"})


def _scale(metric: Metric, value: float) -> float:
    return value if metric is METRICS[0] else math.log10(1 + value)


def _legend(root: ElementTree.Element, width: int) -> None:
    for number, code in enumerate(("stock", "patched")):
        x = width - LEFT - 150 + number * 70
        box = {"x": str(x), "y": "16", "width": "10", "height": "10", "class": code}
        ElementTree.SubElement(root, "rect", box)
        _text(root, x + 15, 25, code)


def _text(parent: ElementTree.Element, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    ElementTree.SubElement(parent, "text", attributes | ({"class": kind} if kind else {})).text = text
