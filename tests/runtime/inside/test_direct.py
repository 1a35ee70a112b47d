"""Direct copies into and out of memory objects: correct, counted, and never used if an object is not pinned."""

from __future__ import annotations

import threading
from typing import Any

import hpu_emulator
import numpy as np
import pytest
import torch
from lmcache.gaudi.device import HpuBackend
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.slabs import Slab, Slabs
from lmcache.gaudi.transfer import Settings, Transfer
from support import LAYOUTS, Caches, expect_load, expect_store, make_caches, object_bytes, random_bits, spans_of

CHUNK = 32
COUNTERS = hpu_emulator.current().counters
#: The shapes of Llama-3.1-8B, of a rank of a 70B model with TP 8, and of DeepSeek-V3, with small rows.
SHAPES = {
    "mha": ("blocks", 32, (2, 4), 90),
    "many layers": ("blocks with the padding block", 80, (1, 4), 90),
    "mla": ("latent blocks", 61, (1, 18), 90),
    "no known padding block": ("flat pair", 3, (2, 8), 90),
}


def make_slabs(limit: int, **others: Any) -> Slabs:
    told: list[str] = []
    values = {"pinned": None, "ahead": 0, "lock": threading.RLock(), "report": told.append, "warn": told.append}
    slabs = Slabs(limit, **(values | others))
    slabs.told = told  # type: ignore[attr-defined]
    return slabs


class Bench:
    """One set of caches with memory objects in slabs."""

    def __init__(self, layout: str, layers: int, row: tuple[int, ...], blocks: int, **sizes: Any) -> None:
        self.rng = np.random.default_rng(0)
        self.caches: Caches = make_caches(
            layout, torch.bfloat16, blocks=blocks, block_size=16, rows=[row] * layers, rng=self.rng
        )
        self.transfer = Transfer(normalise(self.caches.given), chunk=CHUNK, settings=Settings(**sizes), direct=True)
        self.transfer.warm_up(resident=True)
        self.object_bytes = self.transfer.layout.token_bytes * CHUNK
        self.slabs = make_slabs(128 << 20)
        self.slabs.serve(self.object_bytes, HpuBackend())
        self.taken: list[Slab] = []

    def tensor(self, tokens: int, *, pinned: bool = True) -> list[torch.Tensor]:
        """Return one memory object: in a slab if it is a whole chunk, as the allocator does."""
        (tensor,) = self.caches.objects(tokens, self.rng)
        slab = self.slabs.take(tensor.nbytes) if pinned else None
        if slab is None:
            return [tensor]
        self.taken.append(slab)
        piece = slab.buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        piece.copy_(tensor)
        return [piece]

    def request(self, tokens: int, *, foreign: frozenset[int] = frozenset()) -> tuple[Any, Any, np.ndarray]:
        for slab in self.taken:
            self.slabs.give(slab)
        self.taken.clear()
        spans = spans_of(tokens, CHUNK)
        objects = [self.tensor(end - start, pinned=n not in foreign) for n, (start, end) in enumerate(spans)]
        return objects, spans, self.rng.permutation(self.caches.slots)[:tokens]

    def cost(self, direction: str, tokens: int, **arguments: int) -> dict[str, Any]:
        objects, spans, slots = self.request(tokens)
        COUNTERS.reset()
        getattr(self.transfer, direction)(objects, spans, torch.from_numpy(slots), **arguments)
        return COUNTERS.snapshot()

    def check(self, tokens: int, slots: np.ndarray, objects: Any, spans: Any, skip: int = 0) -> None:
        """Store, load other contents of the objects, and compare every byte of objects and caches."""
        before = self.caches.read()
        wanted = expect_store(self.caches, before, objects, spans, slots)
        assert self.transfer.store(objects, spans, torch.from_numpy(slots)) == int((slots >= 0).sum())
        for found, right in zip(object_bytes(objects), wanted, strict=True):
            np.testing.assert_array_equal(found[0], right[0])
        for (tensor,) in objects:
            tensor.copy_(random_bits(tuple(tensor.shape), tensor.dtype, self.rng))
        expected = expect_load(self.caches, before, objects, spans, slots, skip)
        moved = self.transfer.load(objects, spans, torch.from_numpy(slots), skip=skip)
        assert moved == int((slots[skip:] >= 0).sum())
        for layer, right in zip(self.caches.read(), expected, strict=True):
            for a, b in zip(layer, right, strict=True):
                np.testing.assert_array_equal(a[: self.caches.slots], b[: self.caches.slots])


@pytest.fixture(scope="module", params=sorted(SHAPES))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(*SHAPES[request.param])


@pytest.fixture(params=["blocks", "blocks with the padding block", "latent blocks", "flat pair"])
def small(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param, 3, (1, 8), 50, largest_group=4)


def test_whole_tails_holes_prefixes_and_foreign_objects_move_in_one_request(small: Bench) -> None:
    bench, rng = small, np.random.default_rng(7)
    for _ in range(10):
        tokens = int(rng.integers(1, 24 * CHUNK))
        count = -(-tokens // CHUNK)
        objects, spans, slots = bench.request(tokens, foreign=frozenset(rng.integers(0, count, count // 4).tolist()))
        slots[rng.random(tokens) < rng.choice([0.0, 0.0, 0.01])] = -1
        bench.check(tokens, slots, objects, spans, skip=int(rng.integers(0, tokens)))


@pytest.mark.parametrize("direction", ["store", "load"])
def test_the_host_copies_no_byte_of_whole_chunks(bench: Bench, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    copy = bench.transfer._copier.copy
    monkeypatch.setattr(
        bench.transfer._copier, "copy", lambda pairs: copied.extend(s.nbytes for _, s in pairs) or copy(pairs)
    )
    cost = bench.cost(direction, 32 * CHUNK)
    assert copied == []
    assert cost["graph_launches"] == 4
    assert cost["h2d_copies"] + cost["d2h_copies"] == 36
    assert cost["device_syncs"] == 1
    assert cost["graph_compilation"] == 0
    assert cost["bounce_bytes"] == 0
    assert cost["unpinned_copies"] == 0
    assert cost["blocking_copies"] == 0
    assert cost["view_writes"] == 0
    assert cost["device_traffic_bytes"] <= 4.0 * 32 * bench.object_bytes + 32 * CHUNK * 3 * 12
    bench.cost(direction, 32 * CHUNK + 5)
    assert sum(copied) == 5 * bench.transfer.layout.token_bytes + (
        (CHUNK - 5) * bench.transfer.layout.token_bytes
        if bench.transfer.layout.pad is None and direction == "load"
        else 0
    )


@pytest.mark.parametrize("direction", ["store", "load"])
def test_no_other_length_compiles_and_launches_stay_at_the_ideal(bench: Bench, direction: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        tokens = int(rng.integers(1, 44 * CHUNK))
        skip = int(rng.integers(0, tokens)) if direction == "load" else 0
        cost = bench.cost(direction, tokens, **({"skip": skip} if skip else {}))
        members = -(-tokens // CHUNK) - skip // CHUNK
        assert cost["graph_compilation"] == 0
        assert cost["graph_launches"] == members // 8 + (members % 8).bit_count()
        assert cost["device_syncs"] == 1


@pytest.mark.parametrize(
    ("room", "largest", "joined"), [(9, 8, 1), (12, 8, 4), (16, 8, 8), (28, 8, 8), (3, 2, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("direction", ["store", "load"])
def test_device_memory_stays_in_the_room_that_is_given(direction: str, room: int, largest: int, joined: int) -> None:
    bench = Bench("blocks", 8, (2, 4), 90, staging_bytes=room * 8 * 2 * 2 * 8 * CHUNK)
    assert (bench.transfer.largest, bench.transfer.kernels.joined) == (largest, joined)
    cost = bench.cost(direction, 32 * CHUNK)
    # Beyond the objects: indices, in 32 and 64 bits; for a room too small for anything else, an object and its rows.
    assert cost["peak_staging_bytes"] <= max(2, room) * bench.object_bytes + 4 * 8 * CHUNK * 12


@pytest.mark.parametrize(("room", "largest"), [(9, 8), (12, 8), (28, 8), (3, 2)])
@pytest.mark.parametrize("direct", [True, False])
def test_the_warm_up_stays_in_it_too(direct: bool, room: int, largest: int) -> None:
    """vLLM has already given the device's memory to the caches when they are registered."""
    caches = make_caches(
        "blocks", torch.bfloat16, blocks=90, block_size=16, rows=[(2, 4)] * 8, rng=np.random.default_rng(0)
    )
    settings = Settings(staging_bytes=room * 8 * 2 * 2 * 8 * CHUNK)
    transfer = Transfer(normalise(caches.given), chunk=CHUNK, settings=settings, direct=direct)
    COUNTERS.reset()
    transfer.warm_up()
    assert transfer.largest == largest
    assert COUNTERS.snapshot()["peak_staging_bytes"] <= settings.staging_bytes + 4 * 8 * CHUNK * 12


def test_a_group_of_an_8b_model_takes_288_mib() -> None:
    assert Settings().staging_bytes == 9 * 32 * 2 * 8 * 128 * 2 * 256


def test_an_object_freed_while_its_copy_is_under_way_is_given_to_nobody(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = small
    objects, spans, slots = bench.request(2 * CHUNK)
    before = bench.caches.read()
    wanted = expect_store(bench.caches, before, objects, spans, slots)
    own = list(bench.taken)
    others: list[Slab] = []
    synchronize = torch.hpu.synchronize

    def late() -> None:
        while bench.taken:
            bench.slabs.give(bench.taken.pop())
        for _ in own:
            other = bench.slabs.take(bench.object_bytes)
            assert other is not None
            other.buffer.fill_(0x77)
            others.append(other)
        monkeypatch.setattr(torch.hpu, "synchronize", synchronize)
        synchronize()

    monkeypatch.setattr(torch.hpu, "synchronize", late)
    bench.transfer.store(objects, spans, torch.from_numpy(slots))
    assert not {slab.address for slab in others} & {slab.address for slab in own}
    assert all(bool((slab.buffer == 0x77).all()) for slab in others)
    for found, right in zip(object_bytes(objects), wanted, strict=True):
        np.testing.assert_array_equal(found[0], right[0])
    # Afterwards, they are available again.
    again = [bench.slabs.take(bench.object_bytes) for _ in own]
    assert {slab.address for slab in again if slab} == {slab.address for slab in own}
    for slab in [*others, *again]:
        bench.slabs.give(slab)


def test_after_an_error_nothing_stays_held(small: Bench) -> None:
    bench = small
    objects, spans, slots = bench.request(3 * CHUNK)
    slots[-1] = bench.transfer.layout.slots
    with pytest.raises(IndexError):
        bench.transfer.load(objects, spans, torch.from_numpy(slots))
    assert all(slab.holds == 0 for slab in bench.taken)


def test_all_layouts_are_known_here() -> None:
    assert {shape[0] for shape in SHAPES.values()} <= set(LAYOUTS)


def test_loads_and_stores_in_turn_take_the_device_memory_of_one() -> None:
    bench = Bench("blocks", 8, (2, 4), 90, staging_bytes=9 * 8 * 2 * 2 * 8 * CHUNK)
    bench.transfer._pool.drop()
    held = torch.hpu.memory_allocated()
    torch.hpu.reset_peak_memory_stats()
    for direction in ("load", "store", "load", "store"):
        bench.cost(direction, 32 * CHUNK)
    indices = 4 * 8 * CHUNK * 12
    assert torch.hpu.max_memory_allocated() - held <= 9 * bench.object_bytes + indices
