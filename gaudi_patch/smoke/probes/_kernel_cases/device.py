"""How the patched code treats the device and its memory, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kernel_cases.bench import Bench
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv.caches import MAIN, MLA
else:  # run by path, beside this file
    import _probe
    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv.caches import MAIN, MLA


def check_statistics(probe: _probe.Probe) -> None:
    """Check that usage statistics take no card: LMCache also collects them in the scheduler's process."""
    with probe.section("usage statistics"):
        before = kv_device.holds_a_card()
        count, name, memory = _probe.load("lmcache.gaudi.device").describe_device()
        probe.check(bool(count >= 1 and name and memory == 0), f"the device is described as {(count, name, memory)}")
        if before is False:
            probe.check(kv_device.holds_a_card() is False, "describing the device takes a card from the workers")


def check_addresses(probe: _probe.Probe) -> None:
    """Check that memory counts as pinned only at the start of a pinned allocation, as for the bridge."""
    torch = _probe.load("torch")
    with probe.section("pinned memory by its address"):
        backend = _probe.load("lmcache.gaudi.device").HpuBackend()
        block = backend.pinned(4096)
        expected = {
            "a pinned block": (block, True),
            "its first part": (block[:64], True),
            "the rest of a block": (block[64:], False),
            "a block seen the other way round": (block.view(64, 64).t(), False),
            "a block of int64, which is converted on the host": (block.view(torch.int64), False),
            "pageable memory": (torch.zeros(4096, dtype=torch.uint8), False),
        }
        for name, (tensor, pinned) in expected.items():
            probe.check(backend.is_pinned(tensor) == pinned, f"{name} is taken for {'un' * pinned}pinned")


def check_unpinned(bench: Bench) -> None:
    """Check the waits for unpinnable host memory, and for copies to the host that events do not cover."""
    probe = bench.probe
    for name, circumstances in (
        ("host memory that cannot be pinned", kv_device.nothing_pinned),
        ("events that do not cover copies", kv_device.events_cover_no_copies),
    ):
        with probe.section(name), circumstances() as emulated:
            if not emulated:
                continue
            for layout in (MAIN, MLA):
                rig = bench.rig(layout, chunk=32, block_size=16, blocks=90)
                slots = rig.slots(40 * 32 + 7)
                rig.store(slots, rig.spans(len(slots)))
                rig.load(slots, rig.spans(len(slots)), cached=50)


def check_unpinned_objects(bench: Bench) -> None:
    """Check that objects that cannot be pinned go by the ring, which is: nothing is copied twice, nor waited for."""
    with bench.probe.section("memory objects that cannot be pinned"):
        rig, pool = bench.unpinned_rig(MAIN, chunk=32, block_size=16, blocks=90)
        with kv_device.nothing_pinned() as emulated:
            for what, move in (("store", rig.store), ("load", rig.load)) if emulated else ():
                counts = move(rig.slots(9 * 32), rig.spans(9 * 32), counted=True)
                counts.at_most(bench.probe, "bounce_bytes", 0, f"{what} by the pinned ring")
                counts.at_most(bench.probe, "blocking_copies", 0, f"{what} by the pinned ring")
        pool.close()


def check_refusals(bench: Bench) -> None:
    """Check that a slot outside the caches is refused and nothing written: the device would wrap or clamp it."""
    with bench.probe.section("a slot outside the caches"):
        rig = bench.rig(MAIN, chunk=32, block_size=16, blocks=10)
        for outside in (rig.caches.slots, rig.caches.slots + 4096):
            slots = rig.slots(70)
            slots[40] = outside
            rig.refuses(slots, rig.spans(70))


def check_layout_refusals(bench: Bench) -> None:
    """Check that an unknown layout is refused when the caches are registered."""
    torch = _probe.load("torch")
    whole, other = (torch.zeros(160, 2, 8, dtype=torch.bfloat16, device="hpu") for _ in range(2))
    halves = torch.zeros(2, 160, 2, 8, dtype=torch.bfloat16, device="hpu")
    packed = {
        "K and V in one tensor": [torch.zeros(10, 16, 32, dtype=torch.bfloat16, device="hpu")],
        "K and V in halves of one allocation": [(halves[0], halves[1])],
        "one tensor for K and V": [(whole, whole)],
        "K shared and V not": [(whole, other), (whole, torch.zeros_like(whole))],
        "a cache that does not begin its allocation": [(halves[1], other)],
        "heads before tokens": [(whole.view(10, 16, 2, 8).transpose(1, 2), other.view(10, 16, 2, 8).transpose(1, 2))],
    }
    for name, entries in packed.items():
        with bench.probe.section(name):
            kv_shape = (len(entries), 2, 32, 2, 8)
            config = kv_lmcache.make_config(chunk_size=32, local_cpu=True, max_local_cpu_size=0.1)
            metadata = kv_lmcache.make_metadata(kv_shape=kv_shape, dtype=torch.bfloat16, use_mla=False)
            connector = kv_lmcache.make_connector(config, metadata)
            try:
                kv_lmcache.register(connector, entries)
            except ValueError as error:
                refused = "layer" in str(error) or "packed" in str(error)
            else:
                refused = False
            bench.probe.check(refused, "caches that lie in an unknown order are taken")
