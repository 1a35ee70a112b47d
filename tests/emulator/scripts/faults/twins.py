"""The correct twins: no false alarm."""

from __future__ import annotations

import torch
from faults.registry import (
    BIG,
    copied_with_an_event,
    correct,
    mark_step,
    pinned,
    ready,
    with_sfg,
)


@correct
def d2h_with_device_synchronize():
    t, out = ready(3), pinned()
    out.copy_(t + 1, non_blocking=True)
    torch.hpu.synchronize()
    return out.clone(), torch.full((64,), 4.0)


@correct
def h2d_pageable_source_reused_after_its_consumer():
    host = torch.full((64,), 3.0)
    t = torch.empty(64, device="hpu")
    t.copy_(host, non_blocking=True)
    u = t + 1
    torch.hpu.synchronize()
    host.fill_(-1)
    return u.cpu() + t.cpu(), torch.full((64,), 7.0)


@correct
def h2d_from_the_address_of_an_unfinished_d2h():
    host = torch.zeros(64)
    host.copy_(ready(3), non_blocking=True)
    t = torch.empty(64, device="hpu")
    t.copy_(host)
    return t.cpu(), torch.full((64,), 3.0)


@correct
def int64_is_converted_on_the_host_and_waited_for():
    out = torch.zeros(8, dtype=torch.int64)
    out.copy_(torch.arange(8, device="hpu"), non_blocking=True)
    return out.clone(), torch.arange(8)


@correct
def a_copy_to_the_host_under_sfg_with_synchronize():
    def program():
        out = pinned()
        out.copy_(ready(3) + 1, non_blocking=True)
        torch.hpu.Event().record()
        torch.hpu.synchronize()
        return out.clone()

    return with_sfg(program), torch.full((64,), 4.0)


@correct
def events_cover_copies_to_pinned_memory_without_sfg():
    return copied_with_an_event(), torch.full((64,), 4.0)


@correct
def blocking_d2h():
    return (ready(3) + 1).cpu(), torch.full((64,), 4.0)


@correct
def d2h_with_stream_synchronize():
    t, out = ready(3), pinned()
    stream = torch.hpu.Stream()
    with torch.hpu.stream(stream):
        out.copy_(t, non_blocking=True)
    stream.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@correct
def d2h_with_current_stream_synchronize():
    t, out = ready(3), pinned()
    out.copy_(t * 2, non_blocking=True)
    torch.hpu.current_stream().synchronize()
    return out.clone(), torch.full((64,), 6.0)


@correct
def d2h_with_an_event_recorded_after_it():
    t, out = ready(3), pinned()
    out.copy_(t * 2, non_blocking=True)
    event = torch.hpu.Event()
    event.record()
    event.synchronize()
    return out.clone(), torch.full((64,), 6.0)


@correct
def event_polled_until_done():
    """Polling is a valid wait: the device works while the host polls."""
    t, out = ready(3), pinned()
    out.copy_(t * 2, non_blocking=True)
    event = torch.hpu.Event()
    event.record()
    for _ in range(1_000_000):
        if event.query():
            break
    else:
        raise AssertionError("the event never came")
    return out.clone(), torch.full((64,), 6.0)


@correct
def stream_polled_until_done():
    t, out = ready(3), pinned()
    stream = torch.hpu.Stream()
    with torch.hpu.stream(stream):
        out.copy_(t, non_blocking=True)
    for _ in range(1_000_000):
        if stream.query():
            break
    else:
        raise AssertionError("the stream never ended")
    return out.clone(), torch.full((64,), 3.0)


@correct
def mark_step_then_synchronize():
    t, out = ready(1), pinned()
    t.add_(1)
    out.copy_(t, non_blocking=True)
    mark_step()
    torch.hpu.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@correct
def a_blocking_copy_waits_for_earlier_copies_of_its_stream():
    t, out = ready(1), pinned()
    out.copy_(t, non_blocking=True)
    t.cpu()
    return out.clone(), torch.full((64,), 1.0)


@correct
def h2d_source_reused_after_synchronize():
    source = torch.full((64,), 1.0).pin_memory()
    t = source.to("hpu", non_blocking=True)
    torch.hpu.synchronize()
    source.fill_(9)
    return t.cpu(), torch.full((64,), 1.0)


@correct
def h2d_source_reused_after_its_event():
    slot = torch.empty(64, pin_memory=True)
    cache = ready(0, 128)
    event = None
    for chunk in range(2):
        if event is not None:
            event.synchronize()
        slot.fill_(chunk + 1)
        cache[chunk * 64 : (chunk + 1) * 64].copy_(slot, non_blocking=True)
        event = torch.hpu.Event()
        event.record()
    torch.hpu.synchronize()
    return cache.cpu(), torch.cat([torch.ones(64), torch.full((64,), 2.0)])


@correct
def blocking_h2d_source_reused_at_once():
    source = torch.ones(BIG)
    t = source.to("hpu")
    source.fill_(9)
    return t.cpu(), torch.ones(BIG)


@correct
def h2d_source_dropped():
    """The copy keeps its source alive."""
    t = torch.full((4096,), 1.0).pin_memory().to("hpu", non_blocking=True)
    junk = [torch.full((4096,), 5.0).pin_memory() for _ in range(8)]
    torch.hpu.synchronize()
    del junk
    return t.cpu(), torch.ones(4096)


@correct
def consumer_waits_for_the_producers_stream():
    t, out = ready(1), pinned()
    producer, consumer = torch.hpu.Stream(), torch.hpu.Stream()
    with torch.hpu.stream(producer):
        t.add_(4)
    consumer.wait_stream(producer)
    with torch.hpu.stream(consumer):
        out.copy_(t * 3, non_blocking=True)
    consumer.synchronize()
    return out.clone(), torch.full((64,), 15.0)


@correct
def consumer_waits_for_the_producers_event():
    t, out = ready(1), pinned()
    producer, consumer = torch.hpu.Stream(), torch.hpu.Stream()
    with torch.hpu.stream(producer):
        t.add_(4)
        event = producer.record_event()
    with torch.hpu.stream(consumer):
        event.wait()
        out.copy_(t * 3, non_blocking=True)
    consumer.synchronize()
    return out.clone(), torch.full((64,), 15.0)


@correct
def a_chain_of_streams():
    t, out = ready(1), pinned()
    previous = torch.hpu.default_stream()
    for _ in range(5):
        stream = torch.hpu.Stream()
        stream.wait_stream(previous)
        with torch.hpu.stream(stream):
            t.mul_(2)
        previous = stream
    torch.hpu.default_stream().wait_stream(previous)
    out.copy_(t, non_blocking=True)
    torch.hpu.default_stream().synchronize()
    return out.clone(), torch.full((64,), 32.0)


@correct
def device_synchronize_between_streams():
    t = ready(1)
    with torch.hpu.stream(torch.hpu.Stream()):
        t.add_(4)
    torch.hpu.synchronize()
    with torch.hpu.stream(torch.hpu.Stream()):
        t.mul_(3)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 15.0)


@correct
def tensors_dropped_before_their_work_ran():
    index = torch.tensor([3, 1], device="hpu")
    t = torch.arange(4.0, device="hpu")
    rows = t.index_select(0, index)
    del index, t
    for _ in range(30):
        torch.full((4,), 8.0, device="hpu")
    return rows.cpu(), torch.tensor([3.0, 1.0])


@correct
def a_host_read_of_a_scalar_waits():
    t = ready(1)
    t.add_(1)
    return torch.full((64,), t.sum().item()), torch.full((64,), 128.0)
