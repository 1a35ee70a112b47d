"""The cost of a transfer: launches, graphs, copies, waits and staging memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kernel_cases.bench import Bench
    from gaudi_patch.smoke.probes._kv.caches import Layout
    from gaudi_patch.smoke.probes._kv.rig import Rig
else:  # run by path, beside this file
    import _probe


def check_counters(bench: Bench, layout: Layout, *, ring: bool) -> None:
    """Check the cost of a request after the caches were registered.

    A group of up to 8 chunks is one launch, so 16 chunks and a tail are three launches. There is one copy per object,
    and one copy of indices per launch. The device reads and writes the useful bytes twice, because it joins the rows
    of all layers, and the host copies the tail. With the ring, a load joins nothing, and the host copies everything.
    """
    chunk, block_size = 64, 16
    longest = 40 * chunk + 5
    heads = (1,) * 4 if layout.mla else (2,) * 4
    probe = bench.probe
    with probe.section(f"{layout.name}, {'by the ring' if ring else 'objects pinned one by one'}"):
        blocks = longest // block_size + 4
        rig = bench.rig(layout, chunk=chunk, block_size=block_size, blocks=blocks, heads=heads, ring=ring)
        tokens = 16 * chunk + 21
        objects = len(rig.spans(tokens))
        useful = tokens * rig.token_bytes
        for what, move, traffic in (("store", rig.store, 4.5), ("load", rig.load, 2.5 if ring else 4.5)):
            copied = rig.host_copied_bytes
            counts = move(rig.slots(tokens), rig.spans(tokens), counted=True)
            told = f"{what} of {objects} objects{' by the ring' if ring else ''}"
            probe.counters[f"{layout.name}: {told}"] = dict(counts)
            if copied is not None and not ring:
                moved = (rig.host_copied_bytes or 0) - copied
                most = chunk * rig.token_bytes  # the partial chunk, padded
                probe.check(moved <= most, f"{told}: the host copied {moved} bytes, more than one chunk ({most})")
            counts.at_most(probe, "graph_compilation", 0, f"{told}, after the caches were registered")
            counts.at_most(probe, "graph_launches", 3, told)
            counts.at_most(probe, "device_syncs", 1, told)
            counts.at_most(probe, "h2d_copies", 3 + (objects if what == "load" else 0), told)
            counts.at_most(probe, "d2h_copies", 0 if what == "load" else objects, told)
            counts.at_most(probe, "bounce_bytes", 0, told)
            counts.at_most(probe, "view_writes", 0, told)
            counts.at_most(probe, "whole_copies", 0, told)
            counts.at_most(probe, "blocking_copies", 0, told)
            counts.at_most(probe, "cpu_fallback", 0, told)
            counts.at_most(probe, "device_traffic_bytes", int(traffic * useful), told)
        check_lengths(bench, rig, layout)
        check_pending(bench, rig)
        for what, move in (("store", rig.store), ("load", rig.load)):
            counts = move(rig.slots(longest), rig.spans(longest), counted=True)
            counts.at_most(
                probe, "peak_staging_bytes", 20 * chunk * rig.token_bytes, f"{what} of {longest // chunk} chunks"
            )


def check_lengths(bench: Bench, rig: Rig, layout: Layout) -> None:
    """Check that no prompt length, prefix or tail makes the device compile another graph."""
    probe, chunk = bench.probe, rig.chunk
    compiled = 0
    for step in range(10):
        tokens = chunk * (1 + 2 * step) + (7 * step * step + 3) % chunk
        start = chunk * (step // 3)
        slots = rig.slots(tokens)
        stored = rig.store(slots, rig.spans(tokens, start), counted=True)
        loaded = rig.load(slots, rig.spans(tokens, start), cached=start + 5 * step, counted=True)
        for counts, what in ((stored, "store"), (loaded, "load")):
            counts.at_most(probe, "device_syncs", 1, f"{what} of {tokens} tokens")
            compiled += counts.get("graph_compilation", 0)
    probe.counters[f"{layout.name}: graphs compiled for 10 other lengths"] = compiled
    probe.check(compiled == 0, f"{compiled} graphs were compiled for 10 other prompt lengths, prefixes and tails")


def check_pending(bench: Bench, rig: Rig) -> None:
    """Check that the model's pending work does not become part of the request's graphs, which would change them."""
    torch = _probe.load("torch")
    other = torch.zeros(16, device="hpu")
    for attempt in range(2):
        slots = rig.slots(3 * rig.chunk)
        torch.hpu.synchronize()
        stored = rig.store(slots, rig.spans(len(slots)), counted=True, before=lambda: other.add_(1))
        if attempt:  # the first round compiles the addition
            stored.at_most(bench.probe, "graph_compilation", 0, "store while the model's work is pending")
