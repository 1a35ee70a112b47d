"""Requests of every shape: orders, prefixes, foreign and freed objects, wide rows, many slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kernel_cases.bench import Bench
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv.caches import MAIN, MLA
    from gaudi_patch.smoke.probes._kv.connector import columns
    from gaudi_patch.smoke.probes._kv.rig import GUARD, Rig
else:  # run by path, beside this file
    import _environment
    import _probe
    from _kv import lmcache as kv_lmcache
    from _kv.caches import MAIN, MLA
    from _kv.connector import columns
    from _kv.rig import GUARD


def check_requests(bench: Bench) -> None:
    """Check request shapes that do not depend on the layout."""
    probe = bench.probe
    for layout in (MAIN, MLA):
        with probe.section(layout.name):
            rig = bench.rig(layout, chunk=32, block_size=16, blocks=40)
            tokens = 9 * 32 + 11
            slots = rig.slots(tokens)
            spans = rig.spans(tokens)
            with probe.section("one object a call"):
                rig.store(slots, spans[:2], single=True)
                rig.load(slots, spans[-2:], single=True)
            with probe.section("objects in another order"):
                shuffled = [spans[number] for number in bench.rng.permutation(len(spans))]
                rig.store(slots, shuffled)
                rig.load(slots, shuffled, cached=40)
            with probe.section("everything cached"):
                rig.load(slots, spans, cached=tokens)
            with probe.section("objects by the ring"):
                other = bench.rig(layout, chunk=32, block_size=16, blocks=40, ring=True)
                other.store(slots, shuffled)
                other.load(slots, shuffled, cached=40)
            with probe.section("objects of another allocator"):
                other = bench.rig(layout, chunk=32, block_size=16, blocks=40, foreign=True)
                for move in (other.store, other.load):
                    counts = move(slots, spans, counted=True)
                    counts.at_most(probe, "bounce_bytes", 0, "objects that are not pinned one by one")
            with probe.section("objects freed during a store"):
                check_freed(bench, rig)
            with probe.section("objects on the device"):
                rig.load(slots, spans, on_device=True)
                rig.load(slots, spans[1:], on_device=True, cached=40)
    if kv_lmcache.release() >= (0, 3, 12) and _environment.is_patched():
        with probe.section("layers of different widths"):
            for dtype in ("bfloat16", "float8_e4m3fn"):
                rig = bench.rig(MAIN, dtype, chunk=32, block_size=16, blocks=16, heads=(2, 1, 2, 3, 1))
                slots = rig.slots(5 * 32 + 9)
                rig.store(slots, rig.spans(len(slots)))
                rig.load(slots, rig.spans(len(slots)), cached=37)


def check_freed(bench: Bench, rig: Rig) -> None:
    """Check that the memory of objects freed while the device still writes them is not reused before it is done."""
    hpu = _probe.load("torch").hpu
    slots = rig.slots(4 * rig.chunk)
    spans = rig.spans(len(slots))
    objects = [rig.allocate(rig.chunk) for _ in spans]
    others: list[Any] = []
    synchronize = hpu.synchronize

    def late(*arguments: object) -> None:
        if not others:
            rig.free(objects)
            others.extend(rig.allocate(rig.chunk) for _ in spans)
            for other in others:
                for content in rig.contents(other):
                    content.fill(GUARD)
        synchronize(*arguments)

    hpu.synchronize = late
    try:
        rig.connector.batched_from_gpu(objects, *columns(spans), **rig.arguments(slots))
    finally:
        hpu.synchronize = synchronize
    kept = all(bool((content == GUARD).all()) for other in others for content in rig.contents(other))
    bench.probe.check(bool(others) and kept, "memory was given to another object while the device still wrote it")
    rig.free(others)


def check_sizes(bench: Bench) -> None:
    """Check slot numbers above 65535, and rows as wide as a real model's."""
    probe = bench.probe
    with probe.section("70000 slots"):
        rig = bench.rig(MAIN, "int8", chunk=128, block_size=128, blocks=547, heads=(1, 1), head_size=8)
        high = [69888 - token for token in range(3 * 128 + 50)]
        rig.store(high, rig.spans(len(high)))
        rig.load(high, rig.spans(len(high)))
    with probe.section("chunks of 4 MB"):
        for ring in (False, True):
            rig = bench.rig(MAIN, chunk=256, block_size=128, blocks=9, heads=(8, 8, 8, 8), head_size=128, ring=ring)
            slots = rig.slots(3 * 256 + 100)
            rig.store(slots, rig.spans(len(slots)))
            rig.load(slots, rig.spans(len(slots)), cached=300)


def check_sharing(bench: Bench) -> None:
    """Check that caches shared by layers are moved once: two writers of a plane would copy all of it."""
    probe = bench.probe
    if kv_lmcache.release() < (0, 3, 12):  # only memory objects of the model's shape
        return
    for layout in (MAIN, MLA):
        with probe.section(f"layers that share caches, {layout.name}"):
            rig = bench.rig(layout, chunk=32, block_size=16, blocks=16, heads=(2,) * 3, shared=2)
            slots = rig.slots(5 * 32 + 9)
            for move in (rig.store, rig.load):
                counts = move(slots, rig.spans(len(slots)), counted=True)
                counts.at_most(probe, "whole_copies", 0, "a request")
