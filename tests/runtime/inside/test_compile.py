"""Eager mode with the ``hpu_backend`` of torch.compile registered: each group is one launch."""

from __future__ import annotations

import hpu_emulator
import numpy as np
import torch
from lmcache.gaudi.device import HpuBackend
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Settings, Transfer
from support import Caches, expect_load, expect_store, make_caches, object_bytes, spans_of


def one(number: int) -> int:
    return number


def test_without_the_backend_a_function_stays_as_it_is() -> None:
    assert HpuBackend().compiled(one) is one  # the registry is not imported, so nothing can be registered


def check_request(
    caches: Caches, transfer: Transfer, tokens: int, skip: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Count the launches of a store and of a load, and compare both with the oracle."""
    counters = hpu_emulator.current().counters
    spans = spans_of(tokens, 32)
    slots = rng.permutation(caches.slots)[:tokens].astype(np.int64)
    before = caches.read()
    objects = [caches.objects(end - start, rng) for start, end in spans]
    wanted = expect_store(caches, before, objects, spans, slots)
    counters.reset()
    transfer.store(objects, spans, torch.from_numpy(slots))
    store = counters.snapshot()["graph_launches"]
    for found, right in zip(object_bytes(objects), wanted, strict=True):
        np.testing.assert_array_equal(found[0], right[0])
    objects = [caches.objects(end - start, rng) for start, end in spans]
    expected = expect_load(caches, before, objects, spans, slots, skip)
    counters.reset()
    transfer.load(objects, spans, torch.from_numpy(slots), skip=skip)
    load = counters.snapshot()["graph_launches"]
    for layer, right in zip(caches.read(), expected, strict=True):
        for a, b in zip(layer, right, strict=True):
            np.testing.assert_array_equal(a[: caches.slots], b[: caches.slots])
    return store, load


def test_a_group_is_one_launch_and_nothing_is_compiled_after_the_warm_up() -> None:
    from torch._dynamo.backends import registry
    from torch._dynamo.utils import counters

    assert "hpu_backend" in registry.list_backends(exclude_tags=())
    rng = np.random.default_rng(0)
    caches = make_caches("blocks", torch.bfloat16, blocks=40, block_size=16, rows=[(2, 4)] * 4, rng=rng)
    # Registered three times: PyTorch gives up on a function that it has compiled too often.
    for _ in range(3):
        transfer = Transfer(normalise(caches.given), chunk=32, settings=Settings(largest_group=4))
        counters.clear()
        transfer.warm_up()
        assert counters["stats"]["unique_graphs"] == 6  # groups of 1, 2 and 4 chunks, two directions
    for tokens, skip in ((600, 0), (333, 100), (32, 0), (1, 0), (517, 516)):
        chunks = -(-tokens // 32)
        launches = chunks // 4 + bin(chunks % 4).count("1")
        store, load = check_request(caches, transfer, tokens, skip, rng)
        assert store == launches
        assert load <= launches
    assert counters["stats"]["unique_graphs"] == 6
    assert not counters["graph_break"]
