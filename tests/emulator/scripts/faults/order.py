"""Streams that are not ordered, and memory that is read at the wrong time or place."""

from __future__ import annotations

import ctypes
import os

import torch
from faults.registry import (
    Refused,
    fault,
    mark_step,
    pinned,
    ready,
)

# --- streams that are not ordered ---------------------------------------------------------------------------------


@fault()
def read_on_another_stream_without_a_wait():
    t, out = ready(1), pinned()
    producer, consumer = torch.hpu.Stream(), torch.hpu.Stream()
    with torch.hpu.stream(producer):
        t.add_(4)
    with torch.hpu.stream(consumer):
        out.copy_(t * 3, non_blocking=True)
    consumer.synchronize()
    result = out.clone()
    torch.hpu.synchronize()
    return result, torch.full((64,), 15.0)


@fault()
def side_stream_result_read_on_the_default_stream():
    t = ready(1)
    with torch.hpu.stream(torch.hpu.Stream()):
        t.add_(4)
    out = pinned()
    out.copy_(t * 3, non_blocking=True)
    torch.hpu.default_stream().synchronize()
    result = out.clone()
    torch.hpu.synchronize()
    return result, torch.full((64,), 15.0)


@fault()
def default_stream_result_read_on_a_side_stream():
    """In eager mode the bridge makes a side stream wait for the default one; the device does so only on request."""
    t, out = ready(1), pinned()
    t.add_(4)
    side = torch.hpu.Stream()
    with torch.hpu.stream(side):
        out.copy_(t * 3, non_blocking=True)
    side.synchronize()
    result = out.clone()
    torch.hpu.synchronize()
    return result, torch.full((64,), 15.0)


@fault()
def wait_event_on_the_wrong_stream():
    t, out = ready(1), pinned()
    producer, consumer, third = (torch.hpu.Stream() for _ in range(3))
    with torch.hpu.stream(producer):
        t.add_(4)
        event = producer.record_event()
    third.wait_event(event)
    with torch.hpu.stream(consumer):
        out.copy_(t * 3, non_blocking=True)
    consumer.synchronize()
    result = out.clone()
    torch.hpu.synchronize()
    return result, torch.full((64,), 15.0)


# --- memory -------------------------------------------------------------------------------------------------------


def _peek(address: int, count: int) -> torch.Tensor:
    """Return ``count`` floats at an address. The kernel reads them into a pipe, so unreadable memory is an error."""
    libc = ctypes.CDLL(None, use_errno=True)
    read_end, write_end = os.pipe()
    written = libc.write(write_end, ctypes.c_void_p(address), ctypes.c_size_t(4 * count))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        data = stream.read()
    if written != 4 * count:
        raise Refused(f"the read of device memory was refused: {os.strerror(ctypes.get_errno())}")
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


@fault(hidden_by_sync=False)  # in lazy mode nothing is launched before the graph is cut, whatever the schedule
def device_memory_peeked():
    t = ready(1)
    u = t + 1
    return _peek(u.data_ptr(), 64), torch.full((64,), 2.0)


@fault()
def device_memory_peeked_after_mark_step():
    t = ready(1)
    t.add_(1)
    mark_step()
    return _peek(t.data_ptr(), 64), torch.full((64,), 2.0)


@fault(hidden_by_sync=False)
def index_used_after_free():
    """An address used after its tensor was freed, as in code that registers memory by address."""
    index = torch.arange(64.0, device="hpu")
    torch.hpu.synchronize()
    address = index.data_ptr()
    del index
    torch.hpu.synchronize()
    return _peek(address, 64), torch.arange(64.0)


@fault(hidden_by_sync=False)
def empty_taken_for_zeros():
    cache = torch.empty(64, device="hpu")
    cache[:8].fill_(1)
    torch.hpu.synchronize()
    return cache.cpu(), torch.cat([torch.ones(8), torch.zeros(56)])


@fault(hidden_by_sync=False)
def pinned_empty_taken_for_zeros():
    return torch.empty(1024, pin_memory=True).clone(), torch.zeros(1024)
