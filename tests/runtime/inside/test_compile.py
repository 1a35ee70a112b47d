"""Eager rules with a compiler: a stand-in for the bridge's ``hpu_backend`` that runs the captured graph as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lmcache.gaudi.device import HpuBackend
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Settings, Transfer
from support import expect_load, expect_store, make_caches, object_bytes, spans_of
from torch._dynamo.backends.registry import register_backend

CALLS: list[str] = []
COMPILED: list[int] = []


def hpu_backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    COMPILED.append(sum(node.op == "call_method" or node.op == "call_function" for node in graph.graph.nodes))

    def run(*arguments: Any) -> Any:
        CALLS.append("graph")
        return graph.forward(*arguments)

    return run


def test_a_group_is_one_compiled_graph_and_none_is_compiled_after_the_warm_up() -> None:
    function = len
    assert HpuBackend().compiled(function) is function  # no backend, no compiler
    register_backend(hpu_backend, name="hpu_backend")
    rng = np.random.default_rng(0)
    caches = make_caches("blocks", torch.bfloat16, blocks=40, block_size=16, rows=[(2, 4)] * 4, rng=rng)
    transfer = Transfer(normalise(caches.given), chunk=32, settings=Settings(largest_group=4))
    transfer.warm_up()
    assert len(COMPILED) == 6  # groups of 1, 2 and 4 chunks, two directions
    for tokens, skip in ((600, 0), (333, 100), (32, 0), (1, 0), (517, 516)):
        spans = spans_of(tokens, 32)
        slots = rng.permutation(caches.slots)[:tokens].astype(np.int64)
        before = caches.read()
        objects = [caches.objects(end - start, rng) for start, end in spans]
        wanted = expect_store(caches, before, objects, spans, slots)
        CALLS.clear()
        transfer.store(objects, spans, torch.from_numpy(slots))
        chunks = len(spans)
        assert len(CALLS) == chunks // 4 + bin(chunks % 4).count("1")
        for found, right in zip(object_bytes(objects), wanted, strict=True):
            np.testing.assert_array_equal(found[0], right[0])
        objects = [caches.objects(end - start, rng) for start, end in spans]
        expected = expect_load(caches, before, objects, spans, slots, skip)
        transfer.load(objects, spans, torch.from_numpy(slots), skip=skip)
        for layer, right in zip(caches.read(), expected, strict=True):
            for a, b in zip(layer, right, strict=True):
                np.testing.assert_array_equal(a[: caches.slots], b[: caches.slots])
    assert len(COMPILED) == 6
