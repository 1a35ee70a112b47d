"""LMCache 0.5.6's own HPU connector, unchanged from the wheel, runs on the device: bit-exact, with the known figures.

The figures follow from its source: one graph per stored chunk, one per layer of a loaded chunk, and a new signature per
position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.emulator.support import run_script
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8")
LAYERS, CHUNKS = 32, 8


@pytest.fixture(scope="module", params=["lazy", "eager", "lazy-reversed", "eager-reversed"])
def ran(request: pytest.FixtureRequest, lmcache_overlay: Callable[[str], Environment]) -> dict[str, Any]:
    python = lmcache_overlay("0.5.6").python
    report: dict[str, Any] = run_script(python, "run_lmcache.py", request.param)
    return report | {"rules": request.param.split("-")[0]}


def test_lmcache_finds_the_device(ran: dict[str, Any]) -> None:
    assert ran["device"] == "hpu"


@pytest.mark.parametrize("layout", ["mha", "mla"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_store_and_load_are_bit_exact(ran: dict[str, Any], dtype: str, layout: str) -> None:
    failure = ran["round_trips"][f"{dtype}-{layout}"]
    assert not failure, failure


def test_a_missing_synchronize_in_the_connector_is_noticed(ran: dict[str, Any]) -> None:
    assert ran["noticed"]


def test_copies_into_slices_of_the_pool_are_noticed(ran: dict[str, Any]) -> None:
    assert ran["unpinned"]


def test_figures_of_a_store(ran: dict[str, Any]) -> None:
    counted, size = ran["counted"]["store"], ran["counted"]["bytes"]
    operators = CHUNKS * (2 * LAYERS + 3)  # index_select of K and V of each layer, three stacks
    expected = {
        "ops": operators,
        "graph_launches": CHUNKS if ran["rules"] == "lazy" else operators,
        # Eager: a gather per position, and two kinds of stack.
        "graph_compilation": CHUNKS if ran["rules"] == "lazy" else CHUNKS + 2,
        "d2h_copies": CHUNKS,
        "d2h_bytes": size,
        "h2d_copies": 0,
        "device_syncs": CHUNKS,
        "mark_steps": 2 * CHUNKS if ran["rules"] == "lazy" else 0,
        # The copy to the host has cut the graph, so neither mark_step launches anything.
        "empty_mark_steps": 2 * CHUNKS if ran["rules"] == "lazy" else 0,
        "view_writes": 0,
        "device_traffic_bytes": 6 * size,
        "peak_staging_bytes": 2 * size // CHUNKS,
    }
    assert {key: counted[key] for key in expected} == expected
    assert counted["pinned_bytes"] + counted["bounce_bytes"] == size
    assert counted["unpinned_copies"] >= CHUNKS - 1, "at most the pool's first object begins at a pinned address"


def test_figures_of_a_load(ran: dict[str, Any]) -> None:
    counted, size = ran["counted"]["load"], ran["counted"]["bytes"]
    operators = CHUNKS * 2 * LAYERS
    expected = {
        "ops": operators,
        "graph_launches": CHUNKS * LAYERS if ran["rules"] == "lazy" else operators,
        "graph_compilation": CHUNKS * LAYERS,
        "h2d_copies": 2 * CHUNKS,
        "h2d_bytes": size,
        "d2h_copies": 0,
        "blocking_copies": 2 * CHUNKS,
        "device_syncs": CHUNKS,
        "mark_steps": CHUNKS * (LAYERS + 1) if ran["rules"] == "lazy" else 0,
        "empty_mark_steps": CHUNKS if ran["rules"] == "lazy" else 0,
        "view_writes": operators,
        "peak_staging_bytes": size // CHUNKS,
    }
    assert {key: counted[key] for key in expected} == expected
    assert counted["pinned_bytes"] + counted["bounce_bytes"] == size
    assert counted["unpinned_copies"] >= 2 * CHUNKS - 1
