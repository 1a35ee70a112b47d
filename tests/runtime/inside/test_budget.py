"""The cost of a request on the device, in lazy mode; each test keeps one promise."""

from __future__ import annotations

from typing import Any

import hpu_emulator
import numpy as np
import pytest
import torch
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Settings, Transfer
from support import Caches, make_caches, random_bits, spans_of

CHUNK = 32
COUNTERS = hpu_emulator.current().counters


class Bench:
    def __init__(self, layout: str, layers: int, row: tuple[int, ...], blocks: int) -> None:
        self.rng = np.random.default_rng(0)
        self.caches: Caches = make_caches(
            layout, torch.bfloat16, blocks=blocks, block_size=16, rows=[row] * layers, rng=self.rng
        )
        self.transfer = Transfer(normalise(self.caches.given), chunk=CHUNK, settings=Settings())
        self.transfer.warm_up(resident=True)
        # Objects as in LMCache: slices of one pinned pool.
        self.pool = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)

    def request(self, tokens: int) -> tuple[list[list[torch.Tensor]], list[tuple[int, int]], torch.Tensor]:
        spans = spans_of(tokens, CHUNK)
        objects, offset = [], 64
        for start, end in spans:
            (tensor,) = self.caches.objects(end - start, self.rng)
            piece = self.pool[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            piece.copy_(tensor)
            objects.append([piece])
            offset += tensor.nbytes
        return objects, spans, torch.from_numpy(self.rng.permutation(self.caches.slots)[:tokens])

    def cost(self, direction: str, tokens: int, **arguments: int) -> dict[str, Any]:
        objects, spans, slots = self.request(tokens)
        COUNTERS.reset()
        getattr(self.transfer, direction)(objects, spans, slots, **arguments)
        return COUNTERS.snapshot()


# The shapes of Llama-3.1-8B, of a rank of a 70B model with TP 8, and of DeepSeek-V3, with small rows.
WORKLOADS = {
    "mha": (("blocks", 32, (2, 4), 80), 16 * CHUNK + 13, 3),
    "many layers": (("blocks with the padding block", 80, (1, 4), 160), 64 * CHUNK + 2, 9),
    "mla": (("latent blocks", 61, (1, 18), 80), 32 * CHUNK + 25, 5),
}


@pytest.fixture(scope="module", params=sorted(WORKLOADS))
def workload(request: pytest.FixtureRequest) -> tuple[Bench, int, int]:
    arguments, tokens, launches = WORKLOADS[request.param]
    return Bench(*arguments), tokens, launches


@pytest.mark.parametrize("direction", ["store", "load"])
def test_one_launch_for_eight_chunks(workload: tuple[Bench, int, int], direction: str) -> None:
    bench, tokens, launches = workload
    assert bench.cost(direction, tokens)["graph_launches"] == launches


@pytest.mark.parametrize("direction", ["store", "load"])
def test_no_graph_is_compiled_after_the_warm_up(workload: tuple[Bench, int, int], direction: str) -> None:
    bench, most, _ = workload
    rng = np.random.default_rng(5)
    for _ in range(20):
        tokens = int(rng.integers(1, most))
        arguments = {"skip": int(rng.integers(0, tokens))} if direction == "load" else {}
        assert bench.cost(direction, tokens, **arguments)["graph_compilation"] == 0


@pytest.mark.parametrize("direction", ["store", "load"])
def test_at_most_one_copy_an_object_and_one_index_a_launch(workload: tuple[Bench, int, int], direction: str) -> None:
    bench, tokens, launches = workload
    cost = bench.cost(direction, tokens)
    objects = -(-tokens // CHUNK)
    if direction == "store":
        assert cost["d2h_copies"] <= objects
        assert cost["h2d_copies"] == launches
    else:
        assert cost["h2d_copies"] <= objects + launches
        assert cost["d2h_copies"] == 0
    assert cost["d2d_copies"] == 0


@pytest.mark.parametrize("direction", ["store", "load"])
def test_one_device_wide_wait_and_no_blocking_copy(workload: tuple[Bench, int, int], direction: str) -> None:
    bench, tokens, launches = workload
    cost = bench.cost(direction, tokens)
    assert cost["device_syncs"] == 1
    assert cost["blocking_copies"] == 0
    assert cost["stream_syncs"] == 0
    assert cost["mark_steps"] - cost["empty_mark_steps"] == launches


@pytest.mark.parametrize("direction", ["store", "load"])
def test_every_copy_is_pinned_and_only_padding_is_copied_besides(
    workload: tuple[Bench, int, int], direction: str
) -> None:
    bench, tokens, _ = workload
    cost = bench.cost(direction, tokens)
    assert cost["unpinned_copies"] == 0
    assert cost["bounce_bytes"] == 0
    padded = -(-tokens // CHUNK) * CHUNK
    data = cost["d2h_bytes"] if direction == "store" else cost["h2d_bytes"] - padded * 4
    assert data == padded * bench.transfer.layout.token_bytes


@pytest.mark.parametrize("direction", ["store", "load"])
def test_nothing_is_written_through_a_view_and_nothing_falls_back(
    workload: tuple[Bench, int, int], direction: str
) -> None:
    bench, tokens, _ = workload
    cost = bench.cost(direction, tokens)
    assert cost["view_writes"] == 0
    assert cost["cpu_fallback"] == 0
    assert cost["dynamic_ops"] == 0
    assert cost["device_errors"] == 0


@pytest.mark.parametrize(("direction", "factor"), [("store", 4), ("load", 2)])
def test_device_traffic_is_a_small_multiple_of_the_rows(
    workload: tuple[Bench, int, int], direction: str, factor: int
) -> None:
    bench, tokens, _ = workload
    padded = -(-tokens // CHUNK) * CHUNK
    index = padded * (4 + 8)  # the device casts it
    traffic = bench.cost(direction, tokens)["device_traffic_bytes"]
    assert traffic <= factor * padded * bench.transfer.layout.token_bytes + index


@pytest.mark.parametrize("direction", ["store", "load"])
def test_device_staging_is_two_groups_of_a_load_or_one_of_a_store_and_a_tail(
    workload: tuple[Bench, int, int], direction: str
) -> None:
    bench, tokens, _ = workload
    # A store needs its graph's outputs. A load copies the next group while it scatters one, as there is room here.
    chunks = 9 if direction == "store" else 17
    staging = bench.cost(direction, tokens)["peak_staging_bytes"]
    assert staging <= chunks * bench.transfer.kernels.part_bytes + 4 * 8 * 8 * CHUNK


def test_tokens_that_vllm_has_are_not_even_copied(workload: tuple[Bench, int, int]) -> None:
    bench, tokens, _ = workload
    skip = tokens - CHUNK
    cost = bench.cost("load", tokens, skip=skip)
    assert cost["graph_launches"] == 1
    assert cost["h2d_copies"] == 2


def test_operations_left_pending_by_the_model_do_not_become_part_of_a_graph(
    workload: tuple[Bench, int, int],
) -> None:
    bench, tokens, launches = workload
    objects, spans, slots = bench.request(tokens)
    other = random_bits((4, 4), torch.float32, bench.rng).to("hpu")
    other.add_(1)
    torch.hpu.synchronize()
    COUNTERS.reset()
    other.add_(1)
    bench.transfer.load(objects, spans, slots)
    cost = COUNTERS.snapshot()
    assert cost["graph_launches"] == launches + 1
    assert cost["graph_compilation"] == 0


def test_objects_on_the_device_compile_nothing_and_copy_nothing(workload: tuple[Bench, int, int]) -> None:
    bench, _, _ = workload
    objects, spans, slots = bench.request(11 * CHUNK)
    resident = []
    for (tensor,) in objects:
        raw = tensor.view(torch.uint8).view(-1).to("hpu")
        resident.append([raw[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)])
    torch.hpu.synchronize()
    COUNTERS.reset()
    bench.transfer.load(resident, spans, slots)
    cost = COUNTERS.snapshot()
    assert cost["graph_compilation"] == 0
    assert cost["graph_launches"] == 3
    assert cost["h2d_copies"] == 3
    assert cost["d2h_copies"] == 0
