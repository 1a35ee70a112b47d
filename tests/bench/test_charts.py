"""The terminal's table and bars show every measured figure, and no others."""

from __future__ import annotations

import pytest

from gaudi_patch.bench import chart, points
from gaudi_patch.bench.points import Pair, Point
from tests.bench.conftest import MakePoint

TIME, LAUNCHES = chart.METRICS


@pytest.fixture
def measured(make_point: MakePoint) -> list[Point]:
    """Return two lengths of one shape and one of another; the unpatched code has no figures for MLA."""
    found = []
    for tokens in (2048, 8192):
        for direction in ("store", "load"):
            found.append(make_point("stock", tokens=tokens, direction=direction, launches=544, seconds=1.0))
            found.append(make_point("patched", tokens=tokens, direction=direction, launches=3, seconds=0.25))
    found.append(make_point("patched", shape="mla", direction="load", launches=5, seconds=0.5))
    return found


def _pairs(measured: list[Point]) -> list[Pair]:
    return points.pairs_of(list(reversed(measured)))


def test_pairs_are_sorted_by_shape_direction_and_length_and_keep_what_has_no_partner(measured: list[Point]) -> None:
    found = [(one.shape, one.direction, one.tokens, one.stock is None) for one in _pairs(measured)]
    assert found == [
        ("8b", "store", 2048, False),
        ("8b", "store", 8192, False),
        ("8b", "load", 2048, False),
        ("8b", "load", 8192, False),
        ("mla", "load", 2048, True),
    ]


def test_a_row_shows_stock_and_patched_and_a_dash_for_what_was_not_counted(
    measured: list[Point], make_point: MakePoint
) -> None:
    pair, lone = _pairs(measured)[0], _pairs(measured)[-1]
    assert points.count_row(pair) == ("store 2K", "544 -> 3", "3 -> 3", "1 -> 1", "7 -> 7", "1 -> 1", "- -> -")
    assert points.byte_row(pair)[2:] == ("- -> -", "50% -> 50%", "4.0x -> 4.0x", "10.0x -> 2.5x", "15.0x -> 3.8x")
    assert points.count_row(lone)[1] == "- -> 5"
    uncounted = make_point("patched", launches=None, compiled_for_other=None)
    row = points.count_row(Pair("8b", 2048, "store", None, uncounted))
    assert set(row[1:]) == {"- -> -"}
    assert len(row) == len(points.COUNT_COLUMNS)
    assert len(points.byte_row(lone)) == len(points.BYTE_COLUMNS)


def test_a_point_is_told_in_json_with_the_figures_that_follow_from_it(make_point: MakePoint) -> None:
    data = make_point("stock", seconds=0.5).as_data()
    assert (data["times_memcpy"], data["cpu_times_memcpy"]) == (5.0, 7.5)
    assert data["counts"]["graph_launches"] == 8
    assert data["code"] == "stock"


def test_the_longest_length_that_both_codes_have_is_drawn(measured: list[Point], make_point: MakePoint) -> None:
    measured.append(make_point("patched", tokens=32768))
    assert [(one.shape, one.direction, one.tokens) for one in chart.longest(_pairs(measured))] == [
        ("8b", "store", 8192),
        ("8b", "load", 8192),
        ("mla", "load", 2048),
    ]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_bars_are_as_long_as_their_values_and_fit_80_columns(measured: list[Point], ascii_only: bool) -> None:
    text = chart.draw("Time", chart.bars(chart.longest(_pairs(measured)), TIME), ascii_only=ascii_only)
    lines = text.splitlines()
    assert lines[0] == "Time"
    lengths = {line.split()[-1]: sum(line.count(block) for block in "#█") for line in lines[1:]}
    assert lengths == {"10.0x": 40, "2.5x": 10, "5.0x": 20}
    assert all(len(line) <= 80 for line in lines)
    assert text.isascii() is ascii_only


def test_what_no_device_counted_is_not_drawn(make_point: MakePoint) -> None:
    pairs = points.pairs_of([make_point("stock", launches=None), make_point("patched", launches=None)])
    assert chart.draw("Launches", chart.bars(pairs, LAUNCHES), ascii_only=True) == ""
