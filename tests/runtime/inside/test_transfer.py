"""transfer.py against the oracle: layouts, dtypes, block and chunk sizes, slots below 0, prefixes, tails."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lmcache.gaudi.device import HostBackend
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Settings, Transfer
from support import (
    DEVICE,
    DTYPES,
    LAYOUTS,
    Caches,
    expect_load,
    expect_store,
    make_caches,
    object_bytes,
    random_bits,
    spans_of,
)

settings.register_profile("runtime", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("runtime")


def transfer_for(caches: Caches, chunk: int, **sizes: int) -> Transfer:
    layout = normalise(caches.given, bitcast=DEVICE == "cpu")
    return Transfer(layout, chunk=chunk, settings=Settings(**{"largest_group": 4, "threads": 2, **sizes}))


def check_request(
    caches: Caches, chunk: int, tokens: int, slots: np.ndarray, skip: int, rng: np.random.Generator, **sizes: int
) -> None:
    """Store, load different bytes, and compare everything, including every slot of every cache."""
    transfer = transfer_for(caches, chunk, **sizes)
    pad = transfer.layout.pad
    spans = spans_of(tokens, chunk)
    mapping = torch.from_numpy(slots)
    before = caches.read()
    objects = [caches.objects(end - start, rng) for start, end in spans]
    wanted = expect_store(caches, before, objects, spans, slots)
    assert transfer.store(objects, spans, mapping) == int((slots >= 0).sum())
    for found, right in zip(object_bytes(objects), wanted, strict=True):
        for a, b in zip(found, right, strict=True):
            np.testing.assert_array_equal(a, b)
    for layer, right in zip(caches.read(), before, strict=True):
        np.testing.assert_array_equal(layer, right)  # a store changes no cache

    objects = [caches.objects(end - start, rng) for start, end in spans]
    moved = transfer.load(objects, spans, mapping, skip=skip)
    assert moved == int((slots[skip:] >= 0).sum())
    expected = expect_load(caches, before, objects, spans, slots, skip)
    for layer, right in zip(caches.read(), expected, strict=True):
        for a, b in zip(layer, right, strict=True):
            valid = slice(None) if pad is None else slice(0, pad[0])
            np.testing.assert_array_equal(a[valid], b[valid])


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    block_size = draw(st.sampled_from([8, 16]))
    chunk = block_size * draw(st.sampled_from([1, 2, 4]))
    blocks = draw(st.integers(6, 14))
    tokens = draw(st.integers(1, blocks * block_size))
    row = draw(st.sampled_from([(1, 4), (2, 8), (3, 4)]))
    rows = [row] * draw(st.integers(1, 4))
    if draw(st.booleans()) and len(rows) > 1:
        rows[-1] = (2, 4)  # a layer of another width
    return {
        "layout": draw(st.sampled_from(sorted(LAYOUTS))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "block_size": block_size,
        "blocks": blocks,
        "rows": rows,
        "chunk": chunk,
        "tokens": tokens,
        "skip": draw(st.one_of(st.just(0), st.integers(0, tokens))),
        "holes": draw(st.lists(st.integers(0, tokens - 1), max_size=6)),
        "ring": draw(st.sampled_from([1, 256])),
        "seed": draw(st.integers(0, 2**16)),
    }


@given(cases())
def test_any_request_moves_exactly_its_own_rows(case: dict[str, object]) -> None:
    rng = np.random.default_rng(case["seed"])
    caches = make_caches(
        case["layout"],
        case["dtype"],
        blocks=case["blocks"],
        block_size=case["block_size"],
        rows=case["rows"],
        rng=rng,
    )
    slots = rng.permutation(caches.slots)[: case["tokens"]].astype(np.int64)
    slots[case["holes"]] = -1
    check_request(caches, case["chunk"], case["tokens"], slots, case["skip"], rng, ring_bytes=case["ring"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_and_dtype_is_moved_bit_for_bit(layout: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    caches = make_caches(layout, dtype, blocks=12, block_size=16, rows=[(2, 8)] * 3, rng=rng)
    slots = rng.permutation(caches.slots)[:150].astype(np.int64)
    check_request(caches, 32, 150, slots, 40, rng)


def test_slots_beyond_16_bits_are_right() -> None:
    rng = np.random.default_rng(11)
    caches = make_caches("flat pair", torch.int8, blocks=9000, block_size=16, rows=[(1, 4)], rng=rng)
    slots = np.arange(caches.slots - 200, caches.slots)[::-1].astype(np.int64).copy()
    check_request(caches, 32, 200, slots, 0, rng)


def test_a_request_without_live_tokens_touches_nothing() -> None:
    rng = np.random.default_rng(2)
    caches = make_caches("blocks", torch.bfloat16, blocks=4, block_size=8, rows=[(1, 4)], rng=rng)
    check_request(caches, 16, 20, np.full(20, -1, dtype=np.int64), 0, rng)


def test_objects_that_are_on_the_device_are_loaded_tails_and_prefixes_included() -> None:
    rng = np.random.default_rng(3)
    caches = make_caches("latent blocks", torch.bfloat16, blocks=20, block_size=16, rows=[(1, 24)] * 3, rng=rng)
    transfer = transfer_for(caches, 32)
    tokens, skip = 300, 40
    spans = spans_of(tokens, 32)
    slots = rng.permutation(caches.slots)[:tokens].astype(np.int64)
    slots[100] = -1
    before = caches.read()
    objects = [caches.objects(end - start, rng) for start, end in spans]
    raw = [[t.view(torch.uint8).view(-1).to(DEVICE) for t in tensors] for tensors in objects]
    resident = [
        [r[: t.nbytes].view(t.dtype).view(t.shape) for r, t in zip(rs, ts, strict=True)]
        for rs, ts in zip(raw, objects, strict=True)
    ]
    transfer.load(resident, spans, torch.from_numpy(slots), skip=skip)
    expected = expect_load(caches, before, objects, spans, slots, skip)
    for layer, right in zip(caches.read(), expected, strict=True):
        np.testing.assert_array_equal(layer[0][: caches.slots], right[0][: caches.slots])


def test_storing_into_objects_on_the_device_is_refused() -> None:
    if DEVICE == "cpu":
        return
    rng = np.random.default_rng(3)
    caches = make_caches("blocks", torch.bfloat16, blocks=4, block_size=8, rows=[(1, 4)], rng=rng)
    objects = [[t.to(DEVICE) for t in caches.objects(16, rng)]]
    with pytest.raises(ValueError, match="must be on the host"):
        transfer_for(caches, 16).store(objects, [(0, 16)], torch.arange(16))


def test_a_slot_mapping_on_the_device_is_read_back() -> None:
    rng = np.random.default_rng(4)
    caches = make_caches("blocks", torch.bfloat16, blocks=4, block_size=8, rows=[(1, 4)], rng=rng)
    before = caches.read()
    objects = [caches.objects(16, rng)]
    slots = torch.arange(16).flip(0)
    transfer_for(caches, 16).load(objects, [(0, 16)], slots.to(torch.int32).to(DEVICE))
    expected = expect_load(caches, before, objects, [(0, 16)], slots.numpy(), 0)
    np.testing.assert_array_equal(caches.read()[0][0][:32], expected[0][0][:32])


def test_warming_up_changes_no_cache() -> None:
    rng = np.random.default_rng(5)
    caches = make_caches("flat pair", torch.float8_e4m3fn, blocks=6, block_size=8, rows=[(2, 4)] * 5, rng=rng)
    before = caches.read()
    transfer = transfer_for(caches, 16)
    transfer.warm_up(resident=True)
    for layer, right in zip(caches.read(), before, strict=True):
        np.testing.assert_array_equal(layer, right)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 1, 15, 4), "shape"), ((2, 2, 16, 4), "shape"), ((1, 1, 16, 4), "shape"), ((2, 1, 16, 5), "shape")],
)
def test_a_memory_object_that_does_not_fit_is_refused(shape: tuple[int, ...], message: str) -> None:
    rng = np.random.default_rng(6)
    caches = make_caches("blocks", torch.bfloat16, blocks=4, block_size=8, rows=[(1, 4)], rng=rng)
    before = caches.read()
    with pytest.raises(ValueError, match=message):
        transfer_for(caches, 16).load([[torch.zeros(shape, dtype=torch.bfloat16)]], [(0, 16)], torch.arange(16))
    np.testing.assert_array_equal(caches.read(), before)


def test_a_memory_object_of_another_element_size_is_refused() -> None:
    rng = np.random.default_rng(6)
    caches = make_caches("blocks", torch.bfloat16, blocks=4, block_size=8, rows=[(1, 4)], rng=rng)
    with pytest.raises(ValueError, match=r"torch\.float32 for a KV cache of"):
        transfer_for(caches, 16).load([[torch.zeros(2, 1, 16, 4)]], [(0, 16)], torch.arange(16))


def test_after_a_failed_request_the_next_one_is_right() -> None:
    rng = np.random.default_rng(7)
    caches = make_caches("blocks", torch.bfloat16, blocks=8, block_size=8, rows=[(1, 4)] * 2, rng=rng)
    transfer = transfer_for(caches, 8, ring_bytes=1)
    spans = spans_of(50, 8)
    objects = [caches.objects(end - start, rng) for start, end in spans]
    slots = torch.arange(50)

    class BrokenError(Exception):
        pass

    class BrokenCopier:
        calls = 0

        def copy(self, pairs: object) -> None:
            self.calls += 1
            if self.calls > 3:
                raise BrokenError

    copier = transfer._copier
    for action in (transfer.store, transfer.load):
        transfer._copier = BrokenCopier()
        with pytest.raises(BrokenError):
            action(objects, spans, slots)
        transfer._copier = copier
    before = caches.read()
    wanted = expect_store(caches, before, objects, spans, slots.numpy())
    transfer.store(objects, spans, slots)
    for found, right in zip(object_bytes(objects), wanted, strict=True):
        np.testing.assert_array_equal(found[0], right[0])


def test_requests_from_several_threads_do_not_mix() -> None:
    rng = np.random.default_rng(8)
    caches = make_caches("blocks", torch.bfloat16, blocks=40, block_size=8, rows=[(1, 4)] * 2, rng=rng)
    transfer = transfer_for(caches, 8, ring_bytes=1)
    before = caches.read()
    jobs = []
    for number in range(4):
        slots = np.arange(number * 70, number * 70 + 50)
        spans = spans_of(50, 8)
        jobs.append((slots, spans, [caches.objects(end - start, rng) for start, end in spans]))
    threads = [
        threading.Thread(target=transfer.load, args=(objects, spans, torch.from_numpy(slots)))
        for slots, spans, objects in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = before
    for slots, spans, objects in jobs:
        expected = expect_load(caches, expected, objects, spans, slots, 0)
    for layer, right in zip(caches.read(), expected, strict=True):
        np.testing.assert_array_equal(layer[0][: caches.slots], right[0][: caches.slots])


def test_small_staging_memory_only_makes_the_groups_smaller() -> None:
    rng = np.random.default_rng(9)
    caches = make_caches("blocks", torch.bfloat16, blocks=12, block_size=16, rows=[(2, 8)] * 3, rng=rng)
    chunk_bytes = 32 * 2 * 3 * 16 * 2
    assert transfer_for(caches, 32, staging_bytes=3 * chunk_bytes).largest == 2
    assert transfer_for(caches, 32, staging_bytes=1).largest == 1
    slots = rng.permutation(caches.slots)[:150].astype(np.int64)
    check_request(caches, 32, 150, slots, 40, rng, staging_bytes=3 * chunk_bytes)


def test_the_cpu_can_stand_in_for_the_device() -> None:
    rng = np.random.default_rng(10)
    host = make_caches("blocks", torch.float8_e4m3fn, blocks=4, block_size=8, rows=[(1, 4)], rng=rng, device="cpu")
    layout = normalise(host.given, bitcast=True)
    transfer = Transfer(layout, chunk=16, backend=HostBackend())
    before = host.read()
    objects = [[random_bits((2, 1, 16, 4), torch.float8_e4m3fn, rng)]]
    transfer.load(objects, [(0, 16)], torch.arange(16))
    expected = expect_load(host, before, objects, [(0, 16)], np.arange(16), 0)
    np.testing.assert_array_equal(host.read()[0][0][:32], expected[0][0][:32])
