"""Streams, events, threads, pinned memory: correct programs give the CPU's bits."""

from __future__ import annotations

import contextlib
import threading

import torch

from ._case import OnHost, Target, check, compare, normal, pattern, raises


def _stream(on: Target):
    return torch.hpu.Stream() if on.is_hpu else None


def _using(on: Target, stream):
    return torch.hpu.stream(stream) if on.is_hpu else contextlib.nullcontext()


@compare
def copy_on_a_stream_with_stream_synchronize(on: Target):
    t = on(pattern(torch.float16, 100))
    out = torch.empty(100, dtype=torch.float16)
    stream = _stream(on)
    if on.is_hpu:
        stream.wait_stream(torch.hpu.current_stream())
    with _using(on, stream):
        out.copy_(t, non_blocking=True)
    if on.is_hpu:
        stream.synchronize()
    return OnHost(out)


@compare
def wait_stream_orders_producer_and_consumer(on: Target):
    first, second = _stream(on), _stream(on)
    host = normal(256)
    if on.is_hpu:
        first.wait_stream(torch.hpu.current_stream())
    with _using(on, first):
        t = host.to(on.type, non_blocking=True)
        t = t * 2
    if on.is_hpu:
        second.wait_stream(first)
    with _using(on, second):
        u = t + 1
        if on.is_hpu:
            t.record_stream(second)
    on.sync()
    return t, u


@compare
def wait_event_orders_streams(on: Target):
    first, second = _stream(on), _stream(on)
    t = on(torch.zeros(64))
    on.sync()
    with _using(on, first):
        t.add_(5)
        event = torch.hpu.Event() if on.is_hpu else None
        if on.is_hpu:
            event.record()
    with _using(on, second):
        if on.is_hpu:
            event.wait()
        u = t * 3
    on.sync()
    return t, u


@compare
def event_synchronize_covers_earlier_copies(on: Target):
    t = on(pattern(torch.int32, 128))
    out = torch.empty(128, dtype=torch.int32)
    out.copy_(t, non_blocking=True)
    if on.is_hpu:
        event = torch.hpu.Event()
        event.record()
        event.synchronize()
        assert event.query()
    return OnHost(out)


@compare
def record_event_and_wait_event_methods(on: Target):
    t = on(torch.ones(8))
    on.sync()
    if on.is_hpu:
        side = torch.hpu.Stream()
        with torch.hpu.stream(side):
            t.mul_(4)
            event = side.record_event()
        torch.hpu.current_stream().wait_event(event)
    else:
        t.mul_(4)
    t.add_(1)
    on.sync()
    return t


@compare
def double_buffered_pipeline(on: Target):
    """Two pinned slots, a copy stream and events, as a KV connector uses them."""
    chunks = [pattern(torch.bfloat16, 64, 4, seed=s) for s in range(6)]
    cache = torch.zeros(6 * 64, 4, dtype=torch.bfloat16, device=on.type)
    slots = [torch.empty(64, 4, dtype=torch.bfloat16, pin_memory=on.is_hpu) for _ in range(2)]
    free: list = [None, None]
    on.sync()
    copier = _stream(on)
    for number, chunk in enumerate(chunks):
        slot = number % 2
        if free[slot] is not None:
            free[slot].synchronize()
        slots[slot].copy_(chunk)
        with _using(on, copier):
            cache[number * 64 : (number + 1) * 64].copy_(slots[slot], non_blocking=True)
            if on.is_hpu:
                free[slot] = torch.hpu.Event()
                free[slot].record()
    if on.is_hpu:
        torch.hpu.current_stream().wait_stream(copier)
    out = cache + 0
    on.sync()
    return cache, out


@compare
def work_of_another_thread(on: Target):
    results: list = []

    def work():
        t = on(normal(32))
        results.append((t * 2 + 1).cpu())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return OnHost(results[0])


@compare
def a_tensor_freed_before_its_operation_runs(on: Target):
    index = on(torch.tensor([2, 0]))
    t = on(torch.arange(12.0).reshape(3, 4))
    u = t.index_select(0, index)
    del index, t
    junk = [torch.full((3, 4), 99.0, device=on.type) for _ in range(20)]
    on.sync()
    del junk
    return u


@compare
def host_tensor_freed_after_a_non_blocking_copy(on: Target):
    t = pattern(torch.float32, 512).to(on.type, non_blocking=True)
    junk = [torch.full((512,), 3.0) for _ in range(20)]
    on.sync()
    del junk
    return t


@compare
def pinned_memory_is_plain_memory(on: Target):
    t = torch.arange(6.0)
    pinned = t.pin_memory() if on.is_hpu else t.clone()
    pinned += 1
    return OnHost(pinned), OnHost(pinned[2:4]), OnHost(pinned.clone())


@compare
def mark_step_changes_no_value(on: Target):
    t = on(torch.zeros(4))
    for step in range(5):
        t += step
        on.mark_step()
    return t


@check
def pinned_memory_is_recognised():
    """The allocator's blocks are pinned; the bridge recognises them only by their base address."""
    block = torch.empty(4096, pin_memory=True)
    assert block.is_pinned("hpu")
    assert block[:16].is_pinned("hpu")
    assert not block[16:].is_pinned("hpu")
    assert not block.is_pinned()
    assert torch.empty(16).pin_memory("hpu").is_pinned("hpu")
    assert not torch.empty(4096).is_pinned("hpu")


@check
def stream_objects():
    default = torch.hpu.default_stream()
    assert torch.hpu.current_stream() == default
    side = torch.hpu.Stream()
    assert side != default
    assert side.device == torch.device("hpu", 0)
    with torch.hpu.stream(side):
        assert torch.hpu.current_stream() == side
        with torch.hpu.stream(None):
            assert torch.hpu.current_stream() == side
    assert torch.hpu.current_stream() == default
    assert len({hash(side), hash(default)}) == 2
    torch.hpu.set_stream(side)
    assert torch.hpu.current_stream() == side
    torch.hpu.set_stream(default)
    assert torch.hpu.current_stream() == default
    assert side.query()


@check
def stream_is_restored_after_an_exception():
    before = torch.hpu.current_stream()
    with contextlib.suppress(KeyError), torch.hpu.stream(torch.hpu.Stream()):
        raise KeyError
    assert torch.hpu.current_stream() == before


@check
def event_queries_and_times():
    start, end = torch.hpu.Event(enable_timing=True), torch.hpu.Event(enable_timing=True)
    t = torch.zeros(1000, device="hpu")
    torch.hpu.synchronize()
    start.record()
    for _ in range(5):
        t = t + 1
    end.record()
    end.synchronize()
    assert start.query() and end.query()
    assert start.elapsed_time(end) >= 0


@check
def an_event_of_pending_work_is_not_done():
    t = torch.zeros(1000, device="hpu")
    torch.hpu.synchronize()
    t.add_(1)
    event = torch.hpu.Event()
    event.record()
    assert not event.query(), "the laziest schedule has not run this yet"
    event.synchronize()
    assert event.query()


@check
def torch_accelerator_knows_the_device():
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator().type == "hpu"
    assert torch.accelerator.device_count() == 1
    assert torch.accelerator.current_device_index() == 0
    torch.accelerator.synchronize()


@check
def generic_stream_and_event_classes():
    side = torch.Stream(device="hpu")
    event = torch.Event(device="hpu")
    event.record(side)
    event.synchronize()
    side.synchronize()
    assert event.query() and side.query()


@check
def wrong_stream_type_raises():
    raises((TypeError, AttributeError, RuntimeError), lambda: torch.hpu.set_stream("0"))
