"""The model of a host: whether PCIe, host copies or device memory determines the time of a transfer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaudi_patch.bench import points
from gaudi_patch.bench.hosts import HOSTS, Moved, by_ring, exposed_seconds, host_of, limit_seconds
from gaudi_patch.errors import GaudiPatchError
from tests.bench.conftest import MakePoint
from tests.support.cli import gaudi_patch

#: 8192 tokens of Llama-3.1-8B, as counted: 32 objects in 4 graphs.
DIRECT = Moved(1 << 30, copies=32, host_copied=0, traffic=4 << 30, launches=4, overlaps=True)
GAUDI_3 = HOSTS["gaudi3"]


def test_the_limit_is_the_bytes_over_pcie() -> None:
    assert limit_seconds(DIRECT, GAUDI_3) == pytest.approx(21.5e-3, rel=0.01)


def test_without_a_host_copy_pcie_sets_the_time() -> None:
    assert 1.0 < exposed_seconds(DIRECT, GAUDI_3) / limit_seconds(DIRECT, GAUDI_3) < 1.1


def test_the_host_copies_of_a_ring_set_its_time() -> None:
    ring = by_ring(DIRECT)
    assert exposed_seconds(ring, GAUDI_3) == pytest.approx(36e-3, rel=0.06)
    assert exposed_seconds(ring, replace(GAUDI_3, copy=10.0)) == pytest.approx(107e-3, rel=0.03)


def test_eight_cards_share_the_memory_of_the_host() -> None:
    eight = HOSTS["gaudi3-x8"]
    limit = limit_seconds(DIRECT, GAUDI_3)
    assert exposed_seconds(by_ring(DIRECT), eight) / limit >= 3
    assert exposed_seconds(DIRECT, eight) / limit < 1.2


def test_where_every_copy_is_waited_for_the_times_add_up() -> None:
    serial = replace(by_ring(DIRECT), overlaps=False)
    parts = [replace(DIRECT, host_copied=0, traffic=0), replace(DIRECT, size=0, traffic=0, host_copied=1 << 30)]
    assert exposed_seconds(serial, GAUDI_3) > sum(exposed_seconds(part, GAUDI_3) for part in parts)


def test_given_bandwidths_take_the_place_of_the_presets_and_are_named() -> None:
    host = host_of("gaudi2-x8", {"pcie": 20.0, "hbm": None}, None)
    assert (host.pcie, host.hbm, host.cards) == (20.0, HOSTS["gaudi2"].hbm, 8)
    assert host.source.endswith("given: pcie")
    assert host_of("gaudi3", {}, 4).cards == 4


@pytest.mark.parametrize(("preset", "given"), [("gaudi9", {}), ("gaudi3", {"pcie": 0.0}), ("gaudi3", {"dram": -1.0})])
def test_what_is_no_host_is_a_usage_error(preset: str, given: dict[str, float]) -> None:
    with pytest.raises(GaudiPatchError) as caught:
        host_of(preset, given, None)
    assert caught.value.code == "usage"


def test_the_command_refuses_it_before_it_measures() -> None:
    done = gaudi_patch("bench", "--host", "gaudi9")
    assert done.code == 2
    assert "gaudi3-x8" in done.err


def test_a_request_is_shown_beside_its_limit_and_a_device_that_does_not_count_shows_none(
    make_point: MakePoint,
) -> None:
    counts = {
        "graph_launches": 4,
        "d2h_copies": 32,
        "h2d_copies": 4,
        "device_syncs": 1,
        "blocking_copies": 0,
        "host_copied_bytes": 0,
        "device_traffic_bytes": 4 << 30,
    }
    patched = make_point("patched", bytes=1 << 30, counts=counts)
    stock = make_point("stock", bytes=1 << 30, counts={**counts, "device_syncs": 32, "host_copied_bytes": 1 << 30})
    (pair,) = points.pairs_of([patched, stock])
    request, limit, unpatched, ring, direct = points.host_row(pair, GAUDI_3)
    assert (request, limit) == ("store 2K", "21.5 ms")
    assert float(direct.split()[0]) < float(ring.split()[0]) < float(unpatched.split()[0])
    (uncounted,) = points.pairs_of([make_point("patched", launches=None)])
    assert points.host_row(uncounted, GAUDI_3)[1:] == ("-", "-", "-", "-")


@pytest.mark.parametrize(("waits", "overlaps"), [(1, True), (3, True), (9, True), (16, False), (32, False)])
def test_a_code_that_waits_for_each_object_overlaps_nothing(make_point: MakePoint, waits: int, overlaps: bool) -> None:
    counts = dict.fromkeys(("graph_launches", "h2d_copies", "blocking_copies", "host_copied_bytes"), 0)
    point = make_point("patched", counts={**counts, "d2h_copies": 32, "device_traffic_bytes": 1, "device_syncs": waits})
    assert point.moved is not None
    assert point.moved.overlaps == overlaps
