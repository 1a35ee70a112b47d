"""Level kernels: LMCache's connector moves KV between paged caches and memory objects, bit for bit.

Every layout, dtype and block size, with random bits and random blocks, against an oracle that works token by
token on the host. After each transfer the whole of every cache and object is compared, so that a write outside
the request is seen wherever it lands. Then the number of launches, graphs, copies and waits; what is refused; and the
lines that lead LMCache here. Option, beside a probe's own: ``--cases guards``, ``--cases routes`` or ``--cases
multiprocess`` one of these last parts alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kernel_cases import counters, device, guards, multiprocess, requests, routes
    from gaudi_patch.smoke.probes._kernel_cases.bench import Bench
    from gaudi_patch.smoke.probes._kv import caches as kv_caches
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv.caches import MAIN, MLA, Layout
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _environment
    import _probe
    from _kernel_cases import counters, device, guards, multiprocess, requests, routes
    from _kernel_cases.bench import Bench
    from _kv import caches as kv_caches
    from _kv import device as kv_device
    from _kv.caches import MAIN, MLA, Layout

# Tokens per block, and per LMCache chunk (a multiple of the block).
SIZES = ((16, 32), (128, 128), (256, 256))


def body(probe: _probe.Probe) -> None:
    """Run all cases; the most common layout and the counters first, so that their failures are reported first."""
    parser = argparse.ArgumentParser()
    parts = {
        "guards": guards.check_guards,
        "routes": routes.check_routes,
        "multiprocess": multiprocess.check_multiprocess,
    }
    parser.add_argument("--cases", choices=("all", *parts), default="all")
    cases = parser.parse_known_args()[0].cases
    _probe.load("habana_frameworks.torch")
    if cases == "all":
        check_transfers(probe)
    for name, check in parts.items():
        if _environment.is_patched() and cases in ("all", name):
            with probe.section(name):
                check(probe)


def check_transfers(probe: _probe.Probe) -> None:
    """Check the transfers and their costs."""
    if _environment.is_patched():
        device.check_statistics(probe)
    kv_device.confirm(probe)
    kv_device.register_compiler(probe)
    bench = Bench(probe)
    with probe.section("layouts"):
        check_layout(bench, MAIN, "bfloat16", 128, 128)
        check_layout(bench, MAIN, "bfloat16", 128, 128)  # every other case uses the ring
    with probe.section("counters"):
        for layout in (MAIN, MLA):
            for ring in (False, True):
                counters.check_counters(bench, layout, ring=ring)
    with probe.section("layouts"):
        check_layouts(bench)
    with probe.section("requests"):
        requests.check_requests(bench)
        with kv_device.uncompiled():
            requests.check_sizes(bench)
            if _environment.is_patched():
                device.check_refusals(bench)
                device.check_layout_refusals(bench)
        if _environment.is_patched():
            device.check_addresses(probe)
            requests.check_sharing(bench)
            device.check_unpinned(bench)
            device.check_unpinned_objects(bench)
    with probe.section("streams reversed"), kv_device.streams_reversed() as reverse:
        if reverse:
            rig = bench.rig(MAIN, chunk=32, block_size=16, blocks=90)
            slots = rig.slots(40 * 32 + 7)
            rig.store(slots, rig.spans(len(slots)))
            rig.load(slots, rig.spans(len(slots)), cached=50)
    bench.close()
    probe.counters["cases"] = bench.cases
    probe.summary.append(f"{bench.cases} cases in {len(kv_caches.LAYOUTS)} layouts, {len(kv_caches.DTYPES)} dtypes")


def check_layouts(bench: Bench) -> None:
    """Check every layout compiled, and every dtype and size with some layout; then all combinations.

    The combinations run only on the emulated device, where they cost little. On a real device each case has its own
    graphs, and compiling each takes time.
    """
    for number, layout in enumerate(kv_caches.LAYOUTS[1:], 1):  # MAIN was checked first
        check_layout(bench, layout, kv_caches.DTYPES[number % len(kv_caches.DTYPES)], *SIZES[number % len(SIZES)])
    if bench.probe.device != "emulated":
        return
    with kv_device.uncompiled():
        for layout in kv_caches.LAYOUTS:
            for dtype in kv_caches.DTYPES:
                for block_size, chunk in SIZES:
                    check_layout(bench, layout, dtype, block_size, chunk)


def check_layout(bench: Bench, layout: Layout, dtype: str, block_size: int, chunk: int) -> None:
    """Check requests with a partial tail, a prefix that vLLM has, and tokens without a slot."""
    tokens = 3 * chunk + chunk // 3
    probe = bench.probe
    with probe.section(f"{layout.name}, {dtype}, blocks of {block_size}, chunks of {chunk}"):
        blocks = -(-tokens // block_size) + 3
        rig = bench.rig(layout, dtype, chunk=chunk, block_size=block_size, blocks=blocks, ring=bench.cases % 2 == 1)
        slots = rig.slots(tokens)
        with probe.section("store"):
            rig.store(slots, rig.spans(tokens))
        with probe.section("load"):
            rig.load(slots, rig.spans(tokens))
        with probe.section("load after a cached prefix"):
            # LMCache loads whole chunks: the prefix ends inside a chunk, whose first tokens must not be written.
            rig.load(slots, rig.spans(tokens, chunk), cached=chunk + chunk // 2 + 1)
        gaps = [-1 if token < 5 or token % 11 == 3 else slot for token, slot in enumerate(rig.slots(tokens))]
        with probe.section("store with tokens that have no slot"):
            rig.store(gaps, rig.spans(tokens))
        with probe.section("load with tokens that have no slot"):
            rig.load(gaps, rig.spans(tokens))


if __name__ == "__main__":
    _probe.main("kernels", body)
