"""Level engine: LMCache's own engine stores, finds and retrieves KV on this device, through each backend.

All caches are compared after each request, so that a write outside the request is noticed. Blocks are overwritten as
soon as a store returns, as a serving engine would: whatever was not copied by then is lost. On the emulated HPU the
check itself is checked: without the waits, it must fail. Option, beside a probe's own: ``--cases memory``, ``--cases
disk`` or ``--cases ranks`` for one part of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import backends as kv_backends
    from gaudi_patch.smoke.probes._kv import caches as kv_caches
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import ranks as kv_ranks
    from gaudi_patch.smoke.probes._kv.engine import BLOCK_SIZE, CHUNK, LAYERS, EngineCase, Prompt
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _environment
    import _probe
    from _kv import backends as kv_backends
    from _kv import caches as kv_caches
    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv import ranks as kv_ranks
    from _kv.engine import BLOCK_SIZE, CHUNK, LAYERS, EngineCase, Prompt

WHOLE_CHUNKS = 3
#: A part's backends, by number.
_PARTS = {"all": (0, None), "memory": (0, 1), "disk": (1, 2), "ranks": (0, 0)}
_PIN_AHEAD = "LMCACHE_GAUDI_PIN_AHEAD_MIB"
MHA = kv_caches.LAYOUTS[0]
MLA = next(layout for layout in kv_caches.LAYOUTS if layout.mla)


def body(probe: _probe.Probe) -> None:
    """Check both kinds of attention over all backends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", choices=tuple(_PARTS), default="all")
    cases = parser.parse_known_args()[0].cases
    kv_device.confirm(probe)
    for module in ("lmcache.v1.cache_engine", "lmcache.v1.server.__main__"):
        _probe.load(module)  # report missing dependencies by name before starting a server
    chunk_bytes = CHUNK * LAYERS * 2 * 2 * 128  # the larger of the two layouts: K and V, 2 bytes, width 128
    with kv_backends.backends(probe.scratch, 64 * chunk_bytes / _probe.GIB, 13 * chunk_bytes / _probe.GIB) as found:
        chosen = found[slice(*_PARTS[cases])]
        for layout, heads, head_size in ((MHA, 2, 64), (MLA, 1, 256)):
            for backend in chosen:
                with probe.section(f"{'MLA' if layout.mla else 'MHA'} over {backend.name}"):
                    check_backend(EngineCase(probe, layout, heads, head_size), backend)
        if cases == "all" and _environment.is_patched() and kv_lmcache.release() >= (0, 4, 1):
            with probe.section("asynchronous loading"):
                check_asynchronous(EngineCase(probe, MHA, 2, 64), found[0])
        if cases in ("all", "ranks"):
            with probe.section("MLA with two ranks"):
                check_ranks(EngineCase(probe, MLA, 1, 256), EngineCase(probe, MLA, 1, 256), found[0])
    probe.summary.append(f"MHA and MLA over {', '.join(backend.name for backend in chosen) or 'two ranks'}")


def check_backend(case: EngineCase, backend: kv_backends.Backend) -> None:
    """All requests over one backend; over the disk with memory that is pinned when it is needed, and none ahead."""
    with pinned_on_demand(backend.name == "disk"), case.engine(backend):
        prompt = case.prompt(3 * CHUNK + 20)
        case.probe.check(case.lookup(prompt) == 0, "a prompt that was never stored is found")
        case.store(prompt)
        case.settle(prompt, len(prompt.tokens))
        check_compiled(case, prompt)
        case.retrieve(prompt, "a prompt with a partial tail")
        # Whole chunks that vLLM has are not requested; of the next chunk it has some blocks.
        case.retrieve(prompt, "a prompt whose prefix vLLM has", skipped=CHUNK, cached=CHUNK + BLOCK_SIZE + 5)
        longer = case.prompt(5 * CHUNK, like=prompt, shared=2 * CHUNK + 10)
        case.retrieve(longer, "a prompt that shares two chunks", expected=2 * CHUNK)
        check_host_copies(case)
        if backend.evicts:
            check_eviction(case, prompt, backend)
            check_host_copies(case)  # the memory of what was evicted is used again
        elif backend.name == "disk" and case.probe.device == "emulated":
            check_control(case)
        check_broadcasts(case)
        check_promises(case)


@contextlib.contextmanager
def pinned_on_demand(wanted: bool) -> Iterator[None]:
    """Let no memory be pinned before an object needs it."""
    before = os.environ.get(_PIN_AHEAD)
    if wanted:
        os.environ[_PIN_AHEAD] = "0"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop(_PIN_AHEAD)
        if wanted and before is not None:
            os.environ[_PIN_AHEAD] = before


def check_broadcasts(case: EngineCase) -> None:
    """Check that a single rank broadcasts nothing, since each object would be on the device twice."""
    if not _environment.is_patched():
        return
    count = case.nobody.broadcasts
    case.probe.check(count == 0, f"one rank broadcast {count} times, to itself")


def check_promises(case: EngineCase) -> None:
    """Check that promised chunks are loaded although the stores lose them, and that others are not."""
    if not _environment.is_patched():
        return
    prompt = case.prompt(2 * CHUNK + 20)
    case.store(prompt)
    case.settle(prompt, len(prompt.tokens))
    with case.probe.section("chunks that are lost between lookup and load"):
        if case.promise_and_lose(prompt):
            case.retrieve(prompt, "what was promised")
    again = case.prompt(2 * CHUNK + 20)
    case.store(again)
    case.settle(again, len(again.tokens))
    with case.probe.section("control: the promise is broken"):
        if case.promise_and_lose(again, broken=True):
            case.probe.check(not case.would_retrieve(again), "lost chunks are found without a promise: nothing is lost")


def check_host_copies(case: EngineCase) -> None:
    """Check that only the device copies whole chunks, directly into and out of the memory objects.

    The counts of all backends are summed up in the result: so many copies and bytes went the direct way.
    """
    if not _environment.is_patched():
        return
    before = case.host_copied_bytes
    case.probe.check(before is not None, "the connector does not count what the host copies")
    if before is None:
        return
    whole = case.prompt(WHOLE_CHUNKS * CHUNK)
    stored = case.store(whole, pending=False)
    case.settle(whole, len(whole.tokens))
    loaded = case.retrieve(whole, "whole chunks", pending=False)
    copied = (case.host_copied_bytes or 0) - before
    case.probe.check(copied == 0, f"the host copied {copied} bytes of whole chunks")
    totals = case.probe.counters.setdefault(
        "whole chunks", {"copies": 0, "bytes": 0, "host_copied_bytes": 0, "bounce_bytes": 0}
    )
    totals["host_copied_bytes"] += copied
    for counts, what, copies in ((stored, "store", "d2h_copies"), (loaded, "load", "h2d_copies")):
        check_direct(case, counts, what, copies)
        if counts:
            totals["copies"] += WHOLE_CHUNKS
            totals["bytes"] += WHOLE_CHUNKS * case.chunk_bytes
            totals["bounce_bytes"] += counts["bounce_bytes"]


def check_direct(case: EngineCase, counts: kv_device.Counts, what: str, copies: str) -> None:
    """One copy a chunk between its object and the device, of pinned memory, and none but the indices' beside them."""
    if not counts:  # this device does not count copies
        return
    launches = counts["graph_launches"]
    found, due = counts[copies], WHOLE_CHUNKS + (launches if what == "load" else 0)
    case.probe.check(found == due, f"{what} of {WHOLE_CHUNKS} whole chunks: {found} copies, not {due}")
    moved, least = counts["pinned_bytes"], WHOLE_CHUNKS * case.chunk_bytes
    case.probe.check(moved >= least, f"{what} of whole chunks: {moved} of {least} bytes were in pinned memory")
    for name in ("bounce_bytes", "blocking_copies"):
        counts.at_most(case.probe, name, 0, f"{what} of whole chunks")


def check_compiled(case: EngineCase, prompt: Prompt) -> None:
    """Check that an engine's first load compiles nothing: the warm-up covers how the engine handles objects."""
    if not _environment.is_patched():
        return
    counts = case.retrieve(prompt, "the first prompt", pending=False)
    counts.at_most(case.probe, "graph_compilation", 0, "while serving")


def check_ranks(first: EngineCase, second: EngineCase, backend: kv_backends.Backend) -> None:
    """Check MLA with tensor parallelism: only rank 0 stores, and it sends what it retrieves to the other rank."""
    wire = kv_ranks.Wire()
    prompt = first.prompt(3 * CHUNK + 20)
    with first.engine(backend, 0, 2, wire.send_tensor, wire.send_object):
        first.store(prompt)
        first.settle(prompt, len(prompt.tokens))
        with kv_ranks.devices_named() as named:
            first.retrieve(prompt, "rank 0")
    receiving = second.engine(backend, 1, 2, wire.receive_tensor, wire.receive_object)
    with receiving, kv_ranks.devices_named() as also_named:
        second.retrieve(prompt, "rank 1")
    for rank, names in enumerate((named, also_named)):
        first.probe.check(not names, f"rank {rank} puts what is broadcast on {names[:1]}: its device has no number")
    first.probe.check(not wire.sent, f"{len(wire.sent)} of what rank 0 has sent was not received")


def check_asynchronous(case: EngineCase, backend: kv_backends.Backend) -> None:
    """Check that objects of a lookup are released once: after each hit only the cache holds them, unpinned."""
    answers = kv_lmcache.Answers()
    with case.engine(backend, answers=answers):
        prompt = case.prompt(3 * CHUNK + 20)
        case.store(prompt)
        for what, skipped in (("a hit", 0), ("a hit behind chunks that vLLM has", CHUNK), ("the same again", 0)):
            with case.probe.section(what):
                found = case.prefetch(prompt, answers)
                case.probe.check(found == len(prompt.tokens), f"{found} tokens are promised, not {len(prompt.tokens)}")
                case.retrieve(prompt, "loaded", skipped=skipped)
                case.unpin()  # as at the end of each step
                held = case.held()
                case.probe.check(
                    held == [(1, 0)] * 4, f"references and pins of the four chunks are {held}, not 1 and 0"
                )
        with case.probe.section("a lookup without a load"):
            case.prefetch(prompt, answers)
            case.unpin()
            case.probe.check(case.held() == [(1, 0)] * 4, f"references and pins are {case.held()}, not 1 and 0")


def check_eviction(case: EngineCase, first: Prompt, backend: kv_backends.Backend) -> None:
    """Store more than the pool holds, and check: the oldest prompt is lost or comes from below, the newest is
    complete.
    """
    for _ in range(3):
        newest = case.prompt(4 * CHUNK)
        case.store(newest)
        case.settle(newest, len(newest.tokens))
    case.retrieve(newest, "the newest prompt after eviction")
    if backend.keeps and kv_lmcache.release() < (0, 3, 10):
        # There the engine itself loses blocks that move between its backends during a retrieve, on any device
        # (cache_engine.py, _process_tokens_internal: ``end < last_failed_block_start``).
        case.probe.note("retrieving what was evicted to disk not checked (LMCache before 0.3.10 loses blocks)")
    elif backend.keeps:
        case.settle(first, len(first.tokens))
        case.retrieve(first, "a prompt that was evicted to the backend below")
    else:
        case.probe.check(
            case.lookup(first) < len(first.tokens),
            "the oldest prompt is still whole, although the pool cannot hold it: nothing was evicted",
        )


def check_control(case: EngineCase) -> None:
    """Check that without the device-wide wait the disk gets wrong data: otherwise this level could not detect its
    absence.
    """
    prompt = case.prompt(2 * CHUNK)
    with without_waits():
        case.store(prompt)
        case.settle(prompt, len(prompt.tokens), within=5.0)
    found = case.lookup(prompt)
    right = found == len(prompt.tokens) and case.would_retrieve(prompt)
    case.probe.check(not right, "a store that does not wait for the device was not noticed on the emulated HPU")


@contextlib.contextmanager
def without_waits() -> Iterator[None]:
    """Disable the waits of ``torch.hpu`` within the block; drain the device at the end."""
    hpu = _probe.load("torch").hpu

    def nothing(*arguments: object) -> None:
        return None

    owners = [(hpu, "synchronize"), (hpu.Event, "synchronize"), (hpu.Stream, "synchronize")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in owners]
    for owner, name in owners:
        setattr(owner, name, nothing)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)
        hpu.synchronize()


if __name__ == "__main__":
    _probe.main("engine", body)
