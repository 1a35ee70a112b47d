"""The device counts exactly what is documented, in both modes.

Each row names a program of scripts/programs and its expected counters; ``_lazy`` and ``_eager`` hold the counters
specific to one mode. Counters that a row does not name are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.emulator.support import HERE, decorated

pytestmark = pytest.mark.torch

PROGRAMS = decorated([*(HERE / "scripts" / "programs").glob("*.py")], {"program"})
ROW = 16 * 4  # bytes of 16 floats


def _eager_launches(count: int, signatures: int | None = None) -> dict[str, Any]:
    """Eager mode: every operator except a view is its own launch."""
    return {
        "graph_launches": count,
        "graph_compilation": count if signatures is None else signatures,
        "mark_steps": 0,
        "step_causes": {"eager": count} if count else {},
    }


def _cut(cause: str) -> dict[str, Any]:
    return {
        "_lazy": {"graph_launches": 1, "graph_compilation": 1, "step_causes": {cause: 1}},
        "_eager": {"graph_launches": 1, "step_causes": {"eager": 1}},
    }


_NOT_CUT = {"_lazy": {"graph_launches": 0, "step_causes": {}}, "_eager": {"graph_launches": 1}}


def _copy(direction: str, *, pinned: bool, blocking: bool) -> dict[str, Any]:
    other = {"h2d": "d2h", "d2h": "h2d"}[direction]
    return {
        f"{direction}_copies": 1,
        f"{direction}_bytes": ROW,
        f"{other}_copies": 0,
        f"{other}_bytes": 0,
        "pinned_bytes": ROW if pinned else 0,
        "bounce_bytes": 0 if pinned else ROW,
        "unpinned_copies": 0 if pinned else 1,
        "blocking_copies": 1 if blocking else 0,
        "graph_launches": 0,
        "device_syncs": 0,
    }


_FALLBACK = {"cpu_fallback": 1}

EXPECTED: dict[str, dict[str, Any]] = {
    "two_operators_and_a_mark_step": {
        "ops": 2,
        "cpu_fallback": 0,
        "_lazy": {
            "graph_launches": 1,
            "graph_compilation": 1,
            "mark_steps": 1,
            "empty_mark_steps": 0,
            "step_causes": {"mark_step": 1},
        },
        "_eager": _eager_launches(2),
    },
    "the_same_program_twice": {
        "ops": 4,
        "_lazy": {
            "graph_launches": 2,
            "graph_compilation": 1,
            "recipe_cache_hits": 1,
            "recipe_cache_misses": 1,
            "mark_steps": 2,
        },
        "_eager": {**_eager_launches(4, 2), "recipe_cache_hits": 2, "recipe_cache_misses": 2},
    },
    "the_same_program_on_another_shape": {
        "_lazy": {"graph_launches": 2, "graph_compilation": 2},
        "_eager": _eager_launches(2),
    },
    "another_scalar_is_another_attribute": {
        "_lazy": {"graph_launches": 2, "graph_compilation": 2},
        "_eager": _eager_launches(2),
    },
    # The offset of a slice is a constant of the recipe: one signature per position.
    "a_slice_at_four_positions": {
        "_lazy": {"graph_launches": 4, "graph_compilation": 4},
        "_eager": _eager_launches(4),
    },
    "views_alone_launch_nothing": {"graph_launches": 0, "ops": 0, "device_syncs": 1, "device_traffic_bytes": 0},
    "mark_steps_without_work": {
        "graph_launches": 0,
        "_lazy": {"mark_steps": 3, "empty_mark_steps": 3},
        "_eager": {"mark_steps": 0, "empty_mark_steps": 0},
    },
    "cut_by_mark_step": _cut("mark_step"),
    "cut_by_synchronize": _cut("synchronize"),
    "cut_by_a_copy_to_the_host_of_the_pending_tensor": _cut("d2h"),
    "cut_by_a_non_blocking_copy_to_the_host_of_the_pending_tensor": _cut("d2h"),
    "cut_by_a_copy_to_the_host_of_a_view_of_the_pending_tensor": _cut("d2h"),
    "cut_by_a_copy_to_the_device_into_the_pending_tensor": _cut("h2d"),
    "cut_by_item": _cut("item"),
    # An operator whose shape depends on data ends its graph.
    "cut_by_nonzero": {"dynamic_ops": 1, **_cut("dynamic"), "_eager": {"graph_launches": 2}},
    # A mask becomes indices, followed by the gather.
    "cut_by_a_boolean_index": {**_cut("dynamic"), "_eager": {"graph_launches": 3}},
    "cut_by_set_stream": _cut("set_stream"),
    "cut_by_event_record": _cut("event_record"),
    "cut_by_synchronizing_another_stream": _cut("stream_synchronize"),
    "cut_by_querying_another_stream": _cut("stream_query"),
    "not_cut_by_querying_the_current_stream": _NOT_CUT,
    "not_cut_by_synchronizing_the_current_stream": _NOT_CUT,
    "not_cut_by_an_event_recorded_on_another_stream": _NOT_CUT,
    "not_cut_by_a_copy_to_the_host_of_another_tensor": _NOT_CUT,
    "not_cut_by_a_copy_to_the_device_into_another_tensor": _NOT_CUT,
    "not_cut_by_allocation_and_views": _NOT_CUT,
    "blocking_copy_from_pageable_memory": _copy("h2d", pinned=False, blocking=True),
    "non_blocking_copy_from_pageable_memory": _copy("h2d", pinned=False, blocking=False),
    "non_blocking_copy_from_pinned_memory": _copy("h2d", pinned=True, blocking=False),
    "non_blocking_copy_from_the_first_slice_of_a_pinned_pool": _copy("h2d", pinned=True, blocking=False),
    "non_blocking_copy_from_another_slice_of_a_pinned_pool": _copy("h2d", pinned=False, blocking=False),
    "blocking_copy_to_pinned_memory": _copy("d2h", pinned=True, blocking=True),
    "non_blocking_copy_to_pinned_memory": _copy("d2h", pinned=True, blocking=False),
    # A device-to-host copy to pageable memory is documented to block.
    "non_blocking_copy_to_pageable_memory": _copy("d2h", pinned=False, blocking=True),
    "non_blocking_copy_to_a_slice_of_a_pinned_pool": _copy("d2h", pinned=False, blocking=True),
    "copies_of_several_types": {
        "h2d_copies": 4,
        "d2h_copies": 4,
        "h2d_bytes": 10 * (2 + 1 + 8 + 1),
        "d2h_bytes": 10 * (2 + 1 + 8 + 1),
        "blocking_copies": 8,
        "graph_launches": 0,
    },
    "waits_of_every_kind": {"device_syncs": 2, "stream_syncs": 3, "event_syncs": 1, "graph_launches": 0},
    "writes_to_whole_tensors": {"view_writes": 0, "view_write_bytes": 0, "ops": 2},
    # Three writes; each may copy the base of 4096 bytes out and in.
    "writes_through_views": {"view_writes": 3, "view_write_bytes": 3 * 2 * 4096, "ops": 3},
    "traffic_of_a_gather": {"device_traffic_bytes": 2 * 10 * ROW, "view_writes": 0},
    "traffic_of_a_scatter": {"device_traffic_bytes": 2 * 10 * ROW, "view_writes": 0},
    "traffic_of_an_addition": {"device_traffic_bytes": 3 * 1024},
    "traffic_of_a_concatenation": {"device_traffic_bytes": 2 * 3 * 512},
    "staging_of_two_live_results": {"peak_staging_bytes": 2 << 16},
    "staging_of_results_one_after_the_other": {"peak_staging_bytes": 1 << 16},
    "index_put_of_int8_falls_back": _FALLBACK,
    "index_put_of_fp8_falls_back": _FALLBACK,
    "index_copy_of_int64_falls_back": _FALLBACK,
    "index_select_of_six_dimensions_falls_back": _FALLBACK,
    "index_copy_of_fp8_is_a_device_operator": {"cpu_fallback": 0, "graph_launches": 1},
}

#: The required keys of every snapshot.
KEYS = {
    *("graph_launches", "graph_compilation", "recipe_cache_hits", "recipe_cache_misses", "cpu_fallback"),
    *("h2d_copies", "h2d_bytes", "d2h_copies", "d2h_bytes", "pinned_bytes", "bounce_bytes", "unpinned_copies"),
    *("blocking_copies", "device_syncs", "stream_syncs", "event_syncs", "mark_steps", "empty_mark_steps"),
    *("view_writes", "view_write_bytes", "device_traffic_bytes", "peak_staging_bytes", "ops"),
    *("op_histogram", "step_causes"),
}


@pytest.mark.parametrize("mode", ["lazy", "eager"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_small_program_is_counted_exactly(once: Callable[..., Any], mode: str, name: str) -> None:
    counted = once("run_counters.py", mode)["counted"][name]
    assert "failed" not in counted, counted["failed"]
    row = EXPECTED[name]
    expected = {key: value for key, value in row.items() if not key.startswith("_")} | row.get(f"_{mode}", {})
    assert {key: counted[key] for key in expected} == expected


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_a_snapshot_has_the_documented_counters(once: Callable[..., Any], mode: str) -> None:
    for counted in once("run_counters.py", mode)["counted"].values():
        assert set(counted) >= KEYS
        assert sum(counted["op_histogram"].values()) == counted["ops"]
        assert sum(counted["step_causes"].values()) == counted["graph_launches"]


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_strict_mode_refuses_what_the_device_cannot_run(once: Callable[..., Any], mode: str) -> None:
    strict = once("run_counters.py", mode)["strict"]
    assert len(strict) == 4
    assert all(outcome != "ran" for outcome in strict.values()), strict


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_int64_carried_as_int32_halves_the_bytes(once: Callable[..., Any], mode: str) -> None:
    assert once("run_counters.py", mode)["int64_bytes"] == {"False": 80, "True": 40, "out of range": 1}
