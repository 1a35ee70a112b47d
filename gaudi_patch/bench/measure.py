"""Measure the cost of a request. Run by path under the target interpreter, like a smoke probe.

``measure.py --result FILE --rules RULES --device DEVICE --work JSON``. The work names the shape of a model and the
context lengths, and the way: LMCache's connector, its engine, or its multiprocess mode. If the code to measure is not
the installed one, it also names a directory to put first on sys.path.

One process measures one code on one shape, shortest context first. The caches are as large as the longest context
needs, or as memory allows: a longer request reuses the same slots and memory objects, with the same content each
time. For each context, a store and a load are first counted and checked byte by byte, then timed several times, each
alongside a memcpy of as many bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from gaudi_patch.inside.measurement import Figures, Work
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import caches as kv_caches
    from gaudi_patch.smoke.probes._kv import connector as kv_connector
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import ways as kv_ways
    from gaudi_patch.smoke.probes._kv.caches import Caches
    from gaudi_patch.smoke.probes._kv.oracle import Random
else:  # run by path; the smoke probes' shared modules are in smoke/probes
    sys.path.append(str(Path(__file__).resolve().parents[1] / "smoke" / "probes"))
    import _probe
    from _kv import caches as kv_caches
    from _kv import connector as kv_connector
    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv import ways as kv_ways

    _measurement = _probe.inside("measurement")
    Figures, Work = _measurement.Figures, _measurement.Work

np: Any = _probe.load("numpy")

COPY_BYTES = 256 << 20  # the block that memcpy copies repeatedly: larger than any processor cache
OBJECT_SLACK = 8192  # an allocator aligns its objects
DEVICE_SHARE = 0.9  # share of the device's free memory for the caches
MOST_RUNS, RUN_SECONDS = 5, 20.0
DIRECTIONS = ("store", "load")


class Took(NamedTuple):
    """Wall-clock seconds, and CPU seconds of all processors for this process."""

    seconds: float
    cpu_seconds: float


class Timed(NamedTuple):
    """The fastest of ``runs`` moves in one direction, and of as many memcpys of the same size."""

    move: Took
    memcpy: Took
    runs: int


def body(probe: _probe.Probe) -> None:
    """Measure all contexts, and put the figures into the counters of the result."""
    work = _work()
    if not work.pinned:
        os.environ["LMCACHE_GAUDI_PIN_MIB"] = "0"
    if work.tree:
        sys.path.insert(0, work.tree)
    kv_device.confirm(probe)
    kv_device.register_compiler(probe)
    where = str(_probe.load("lmcache").__file__)
    if not where.startswith(work.expected):
        raise RuntimeError(f"LMCache comes from {where}, not from {work.expected}")
    free = _free_device_bytes()
    on_device = int(DEVICE_SHARE * free) // work.token_bytes
    held = work.held if work.held <= on_device else on_device // work.chunk * work.chunk
    if held < 2 * work.chunk:
        raise _probe.Skip(f"the device has {free >> 20} MiB free, which is too little for caches")
    if work.through != "connector" and held < max(work.contexts):
        raise _probe.Skip(f"the device has {free >> 20} MiB free, which is too little for {max(work.contexts)} tokens")
    meter = Meter(probe, work, held)
    probe.counters["connector"] = meter.way.mover
    probe.counters["points"] = points = []
    try:
        # The unpatched code makes non-blocking copies into memory that counts as not pinned, and no wait covers them.
        # It is measured as if these copies were always in order.
        with kv_device.copies_in_order():
            for tokens in work.contexts:
                with probe.section(f"{tokens} tokens"):
                    points += [figures.to_json() for figures in meter.context(tokens)]
    finally:
        meter.way.close()


def _work() -> Work:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    return Work.from_text(parser.parse_known_args()[0].work)


def _free_device_bytes() -> int:
    stats = _probe.load("torch").hpu.memory_stats()
    return int(stats["Limit"]) - int(stats["InUse"])


class Moves(Protocol):
    """One prompt, and its way."""

    def ready(self, direction: str) -> Callable[[], None]:
        """Return the call to measure, in new slots; it may be repeated."""
        ...

    def wrong(self) -> int:
        """Return the number of planes that differ after the last call."""
        ...

    def free(self) -> None:
        """Free its memory."""
        ...


class Way(Protocol):
    """How KV moves; see `Connector`, and ``ways.Way`` for the others."""

    mover: str
    whole: bool
    token_bytes: int

    @property
    def host_copied_bytes(self) -> int | None:
        """Return the bytes that the host has copied so far, other than the bridge's; None if not counted."""
        ...

    def request(self, tokens: int) -> Moves:
        """Return a prompt of this length."""
        ...

    def close(self) -> None:
        """Release the memory."""
        ...


class Connector:
    """LMCache's connector alone, with memory objects for ``held`` tokens."""

    whole = False

    def __init__(self, caches: Caches, chunk: int, held: int, rng: Random, token_bytes: int) -> None:
        objects = -(-held // chunk) + 1  # plus the partial chunk of a longer request
        self._allocator = kv_lmcache.Allocator((held + chunk) * token_bytes + objects * OBJECT_SLACK)
        self._held = held
        self._port = kv_connector.Port(caches, chunk, self._allocator, rng)
        self.mover, self.token_bytes = type(self._port.connector).__name__, self._port.token_bytes

    @property
    def host_copied_bytes(self) -> int | None:
        """Return what the connector counts."""
        return self._port.host_copied_bytes

    def request(self, tokens: int) -> Request:
        """Return a prompt of this length."""
        return Request(self._port, tokens, self._held)

    def close(self) -> None:
        """Release the pool."""
        self._allocator.close()


class Request:
    """A request of ``tokens`` tokens over memory for ``held`` tokens: its memory objects and their spans.

    The chunks use the available objects in order, starting over after the last.
    """

    def __init__(self, port: kv_connector.Port, tokens: int, held: int) -> None:
        self._port, self._tokens = port, tokens
        self._held = min(tokens, held)
        self._spans = port.spans(tokens)
        self._own = [port.allocate(end - start) for start, end in port.spans(self._held)]
        self._objects = [self._own[number % len(self._own)] for number in range(len(self._spans))]
        start, end = self._spans[-1]
        if end - start < port.chunk and tokens > held:  # a partial chunk needs an object of its own size
            self._objects[-1] = port.allocate(end - start)
            self._own.append(self._objects[-1])
        self._slots: list[int] = []

    def ready(self, direction: str) -> Callable[[], None]:
        """Return the connector's call, with a new slot mapping for all tokens."""
        slots = self._port.slots(self._held)
        self._slots = (slots * -(-self._tokens // self._held))[: self._tokens]
        connector = self._port.connector
        call = connector.batched_from_gpu if direction == "store" else connector.batched_to_gpu
        arguments, columns = self._port.arguments(self._slots), kv_connector.columns(self._spans)
        return lambda: call(self._objects, *columns, **arguments)

    def wrong(self) -> int:
        """Return the number of planes whose slots differ from the memory objects."""
        index = np.asarray(self._slots)
        contents = [self._port.contents(memory_object) for memory_object in self._objects]
        wrong = 0
        for kind, layers in enumerate(self._port.kinds):
            for place, number in enumerate(self._port.caches.plane_numbers(layers)):
                rows = self._port.caches.read_plane(number)
                wrong += not all(
                    np.array_equal(rows[index[start:end]], content[kind][place])
                    for content, (start, end) in zip(contents, self._spans)  # noqa: B905 - equal by construction
                )
        return wrong

    def free(self) -> None:
        """Free the objects."""
        self._port.free(self._own)


class Meter:
    """One code on one shape: the way of the KV, and the cost of moving it."""

    def __init__(self, probe: _probe.Probe, work: Work, held: int) -> None:
        self._probe, self._torch = probe, _probe.load("torch")
        rng = np.random.default_rng(_probe.SEED)
        chunk, block = work.chunk, work.block
        self._held, self._chunk = held, chunk
        layout = next(candidate for candidate in kv_caches.LAYOUTS if candidate.mla == work.mla and candidate.pad)
        caches = kv_caches.Caches(
            layout,
            dtype="bfloat16",
            blocks=-(-held // block) + 2,
            block_size=block,
            heads=(work.heads,) * work.layers,
            head_size=work.head_size,
            rng=rng,
            copied=False,
        )
        self.way = _way(work, caches, held, rng)
        found = self.way.token_bytes
        probe.check(found == work.token_bytes, f"a token has {found} bytes, not {work.token_bytes}")
        size = min(COPY_BYTES, held * work.token_bytes)
        self._blocks = np.ones(size, np.uint8), np.zeros(size, np.uint8)

    def context(self, tokens: int) -> list[Figures]:
        """Return the figures of a store and a load of this length: counted and checked once, then timed."""
        first = {name: dict(counts) for name, counts in self._checked(tokens).items()}
        # A prompt of another length, with a partial chunk if one can move: graphs compiled for it are compiled for
        # every new prompt.
        other = tokens - self._chunk - (0 if self.way.whole else self._chunk // 3)
        again = self._checked(other)
        with kv_device.unpoisoned():
            timed = self._timed(tokens)
        return [
            Figures(
                tokens=tokens,
                held=min(tokens, self._held),
                direction=name,
                bytes=tokens * self.way.token_bytes,
                counts=counts,
                other_tokens=other,
                compiled_for_other=again[name].get("graph_compilation"),
                seconds=timed[name].move.seconds,
                cpu_seconds=timed[name].move.cpu_seconds,
                memcpy_seconds=timed[name].memcpy.seconds,
                memcpy_cpu_seconds=timed[name].memcpy.cpu_seconds,
                runs=timed[name].runs,
            )
            for name, counts in first.items()
        ]

    def _checked(self, tokens: int) -> dict[str, kv_device.Counts]:
        """Return the counts of a store, and of a load into other slots, after comparing both byte by byte."""
        request = self.way.request(tokens)
        counts = {}
        for name in DIRECTIONS:
            move = request.ready(name)
            self._torch.hpu.synchronize()
            before = self.way.host_copied_bytes
            with kv_device.counting() as counts[name]:
                move()
            # The ring's copies; the device counts the bridge's own copies, of memory that is not pinned.
            ring = 0 if before is None else (self.way.host_copied_bytes or 0) - before
            if "bounce_bytes" in counts[name]:
                counts[name]["host_copied_bytes"] = ring + counts[name]["bounce_bytes"]
            wrong = request.wrong()
            self._probe.check(not wrong, f"{name} of {tokens} tokens: {wrong} planes of the cache differ")
        request.free()
        return counts

    def _timed(self, tokens: int) -> dict[str, Timed]:
        """Return the fastest of several interleaved runs: other load can make a run longer, never shorter."""
        request = self.way.request(tokens)
        moves = {name: request.ready(name) for name in DIRECTIONS}
        moved: dict[str, list[Took]] = {name: [] for name in moves}
        copied: list[Took] = []
        begun = time.perf_counter()
        while len(copied) < MOST_RUNS and (not copied or time.perf_counter() - begun < RUN_SECONDS):
            copied.append(_took(lambda: self._copy(tokens * self.way.token_bytes)))
            for name, move in moves.items():
                moved[name].append(_took(lambda move=move: (move(), self._torch.hpu.synchronize())))  # type: ignore[misc]
        request.free()
        return {name: Timed(_fastest(runs), _fastest(copied), len(runs)) for name, runs in moved.items()}

    def _copy(self, size: int) -> None:
        """Copy ``size`` bytes by memcpy in one thread, between blocks that are already in memory."""
        source, target = self._blocks
        for first in range(0, size, len(source)):
            count = min(len(source), size - first)
            np.copyto(target[:count], source[:count])


def _way(work: Work, caches: Caches, held: int, rng: Random) -> Way:
    if work.through == "engine":
        return kv_ways.Engine(caches, work.chunk, held, rng)
    if work.through == "multiprocess":
        return kv_ways.Multiprocess(caches, work.chunk, held, rng)
    return Connector(caches, work.chunk, held, rng, work.token_bytes)


def _took(work: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def _fastest(runs: Sequence[Took]) -> Took:
    return Took(min(run.seconds for run in runs), min(run.cpu_seconds for run in runs))


if __name__ == "__main__":
    _probe.main("bench", body)
