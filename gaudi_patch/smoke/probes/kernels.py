"""Level kernels: LMCache's connector moves KV between paged caches and memory objects, bit for bit.

Every layout, dtype and block size, with random bits and random blocks, against an oracle that works token by
token on the host. After each transfer the whole of every cache and object is compared, so that a write outside
the request is seen wherever it lands. Then the number of launches, graphs, copies and waits.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import caches as kv_caches
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv.caches import Caches, Layout
    from gaudi_patch.smoke.probes._kv.connector import columns
    from gaudi_patch.smoke.probes._kv.rig import GUARD, Rig
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _probe
    from _kv import caches as kv_caches
    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv.caches import Caches, Layout
    from _kv.connector import columns
    from _kv.rig import GUARD, Rig

np: Any = _probe.load("numpy")

SEED = 20240229
POOL_BYTES = 64 * 1024 * 1024
# Tokens a block, and LMCache's chunk in tokens (a multiple of it).
SIZES = ((16, 32), (128, 128), (256, 256))
MAIN = kv_caches.LAYOUTS[0]
MLA = next(layout for layout in kv_caches.LAYOUTS if layout.mla)


def body(probe: _probe.Probe) -> None:
    """All cases; the most usual layout and the counters first, so that their failures are told first."""
    _probe.load("habana_frameworks.torch")
    if _probe.is_patched():
        check_statistics(probe)
    kv_device.confirm(probe)
    kv_device.register_compiler(probe)
    bench = Bench(probe)
    with probe.section("layouts"):
        check_layout(bench, MAIN, "bfloat16", 128, 128)
        check_layout(bench, MAIN, "bfloat16", 128, 128)  # every other case goes by the ring
    with probe.section("counters"):
        for layout in (MAIN, MLA):
            for ring in (False, True):
                check_counters(bench, layout, ring=ring)
    with probe.section("layouts"):
        check_layouts(bench)
    with probe.section("requests"):
        check_requests(bench)
        with kv_device.uncompiled():
            check_sizes(bench)
            if _probe.is_patched():
                check_refusals(bench)
                check_layout_refusals(bench)
        if _probe.is_patched():
            check_addresses(probe)
            check_sharing(bench)
            check_unpinned(bench)
    with probe.section("streams reversed"), kv_device.streams_reversed() as reverse:
        if reverse:
            rig = bench.rig(MAIN, chunk=32, block_size=16, blocks=90)
            slots = rig.slots(40 * 32 + 7)
            rig.store(slots, rig.spans(len(slots)))
            rig.load(slots, rig.spans(len(slots)), cached=50)
    bench.close()
    probe.counters["cases"] = bench.cases
    probe.summary.append(f"{bench.cases} cases in {len(kv_caches.LAYOUTS)} layouts, {len(kv_caches.DTYPES)} dtypes")


class Bench:
    """What the cases share."""

    def __init__(self, probe: _probe.Probe) -> None:
        self.probe = probe
        self.rng = np.random.default_rng(SEED)
        self._pools = {ring: kv_lmcache.Allocator(POOL_BYTES, one_buffer=ring) for ring in (False, True)}
        self.cases = 0

    def close(self) -> None:
        """Give the pools back."""
        for pool in self._pools.values():
            pool.close()

    def rig(
        self,
        layout: Layout,
        dtype: str = "bfloat16",
        *,
        chunk: int,
        block_size: int,
        blocks: int,
        heads: Sequence[int] | None = None,
        head_size: int | None = None,
        ring: bool = False,
        foreign: bool = False,
        shared: int = 0,
    ) -> Rig:
        """Caches and a connector for them; two layers unless ``heads`` names more, and ``shared`` that use theirs.

        ring: memory objects out of one buffer, which the connector knows. foreign: it expects others.
        """
        self.cases += 1
        caches = Caches(
            layout,
            dtype=dtype,
            blocks=blocks,
            block_size=block_size,
            heads=heads or ((1, 1) if layout.mla else (2, 2)),
            head_size=head_size or (24 if layout.mla else 8),
            rng=self.rng,
            shared=shared,
        )
        with unpinned_objects() if ring else contextlib.nullcontext():
            return Rig(self.probe, caches, chunk, self._pools[ring or foreign], self.rng)


@contextlib.contextmanager
def unpinned_objects() -> Iterator[None]:
    """Have connectors made that leave LMCache's pool one buffer."""
    name = "LMCACHE_GAUDI_PIN_MIB"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def check_layouts(bench: Bench) -> None:
    """Every layout compiled, and every dtype and size with one layout or another; then all of them with each other.

    The second part is for the emulated device, where it costs little: on a real one each case has graphs of its own,
    and a graph compiler needs its time for each.
    """
    for number, layout in enumerate(kv_caches.LAYOUTS[1:], 1):  # MAIN is checked first of all
        check_layout(bench, layout, kv_caches.DTYPES[number % len(kv_caches.DTYPES)], *SIZES[number % len(SIZES)])
    if bench.probe.device != "emulated":
        return
    with kv_device.uncompiled():
        for layout in kv_caches.LAYOUTS:
            for dtype in kv_caches.DTYPES:
                for block_size, chunk in SIZES:
                    check_layout(bench, layout, dtype, block_size, chunk)


def check_layout(bench: Bench, layout: Layout, dtype: str, block_size: int, chunk: int) -> None:
    """Requests with a partial tail, a prefix that vLLM has, and tokens without a slot."""
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
            # LMCache loads whole chunks: the prefix ends inside one, whose first tokens are not to be written.
            rig.load(slots, rig.spans(tokens, chunk), cached=chunk + chunk // 2 + 1)
        gaps = [-1 if token < 5 or token % 11 == 3 else slot for token, slot in enumerate(rig.slots(tokens))]
        with probe.section("store with tokens that have no slot"):
            rig.store(gaps, rig.spans(tokens))
        with probe.section("load with tokens that have no slot"):
            rig.load(gaps, rig.spans(tokens))


def check_counters(bench: Bench, layout: Layout, *, ring: bool) -> None:
    """What a request costs, after the caches were registered.

    A group of up to 8 chunks is one launch, so 16 chunks and a tail are three; one copy an object, and one of
    the indices a launch. The device reads and writes the useful bytes twice, since it joins the rows of all layers,
    and the host copies the tail; by the ring, a load joins nothing, and the host copies all.
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
    """No prompt length, prefix or tail makes the device compile another graph."""
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
    """What the model has left pending does not become part of the request's graphs, which would be new ones."""
    torch = _probe.load("torch")
    other = torch.zeros(16, device="hpu")
    for attempt in range(2):
        slots = rig.slots(3 * rig.chunk)
        torch.hpu.synchronize()
        stored = rig.store(slots, rig.spans(len(slots)), counted=True, before=lambda: other.add_(1))
        if attempt:  # the first compiles the addition
            stored.at_most(bench.probe, "graph_compilation", 0, "store while the model's work is pending")


def check_requests(bench: Bench) -> None:
    """Shapes of requests that do not depend on the layout."""
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
    if kv_lmcache.release() >= (0, 3, 12) and _probe.is_patched():
        with probe.section("layers of different widths"):
            for dtype in ("bfloat16", "float8_e4m3fn"):
                rig = bench.rig(MAIN, dtype, chunk=32, block_size=16, blocks=16, heads=(2, 1, 2, 3, 1))
                slots = rig.slots(5 * 32 + 9)
                rig.store(slots, rig.spans(len(slots)))
                rig.load(slots, rig.spans(len(slots)), cached=37)


def check_freed(bench: Bench, rig: Rig) -> None:
    """Objects that are freed while the device still writes them: nobody else gets their memory before it is done."""
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
    """Slot numbers above 65535, and rows as wide as a model's."""
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


def check_refusals(bench: Bench) -> None:
    """A slot outside the caches is refused, and nothing is written: the device would wrap or clamp it."""
    with bench.probe.section("a slot outside the caches"):
        rig = bench.rig(MAIN, chunk=32, block_size=16, blocks=10)
        for outside in (rig.caches.slots, rig.caches.slots + 4096):
            slots = rig.slots(70)
            slots[40] = outside
            rig.refuses(slots, rig.spans(70))


def check_statistics(probe: _probe.Probe) -> None:
    """What LMCache's usage statistics ask is asked in the scheduler's process too, which may take no card."""
    with probe.section("usage statistics"):
        before = kv_device.holds_a_card()
        count, name, memory = _probe.load("lmcache.gaudi.device").describe_device()
        probe.check(bool(count >= 1 and name and memory == 0), f"the device is described as {(count, name, memory)}")
        if before is False:
            probe.check(kv_device.holds_a_card() is False, "describing the device takes a card from the workers")


def check_addresses(probe: _probe.Probe) -> None:
    """Pinned is what starts a pinned allocation, as the bridge sees it, whatever PyTorch says of the rest."""
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


def check_sharing(bench: Bench) -> None:
    """Layers that use the caches of others are moved once: two writers of a plane would copy the whole of it."""
    probe = bench.probe
    if kv_lmcache.release() < (0, 3, 12):  # memory objects of the model's shape only
        return
    for layout in (MAIN, MLA):
        with probe.section(f"layers that share caches, {layout.name}"):
            rig = bench.rig(layout, chunk=32, block_size=16, blocks=16, heads=(2,) * 3, shared=2)
            slots = rig.slots(5 * 32 + 9)
            for move in (rig.store, rig.load):
                counts = move(slots, rig.spans(len(slots)), counted=True)
                counts.at_most(probe, "whole_copies", 0, "a request")


def check_layout_refusals(bench: Bench) -> None:
    """A layout whose parts are not known is refused when the caches are registered."""
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


def check_unpinned(bench: Bench) -> None:
    """Host memory that cannot be pinned is waited for, and copies to the host where events do not cover them."""
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


if __name__ == "__main__":
    _probe.main("kernels", body)
