"""Copies to and from the host that lack a necessary wait."""

from __future__ import annotations

import torch
from faults.registry import (
    BIG,
    copied_with_an_event,
    fault,
    mark_step,
    pinned,
    ready,
    with_sfg,
)

# --- a copy to the host, read too early ---------------------------------------------------------------------------


@fault()
def d2h_without_synchronize():
    t, out = ready(3), pinned()
    out.copy_(t, non_blocking=True)
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_of_a_pending_result_without_synchronize():
    t, out = ready(3), pinned()
    out.copy_(t + 1, non_blocking=True)
    return out.clone(), torch.full((64,), 4.0)


@fault()
def d2h_to_pageable_memory_without_synchronize():
    out = (ready(3) * 2).to("cpu", non_blocking=True)
    return out.clone(), torch.full((64,), 6.0)


@fault()
def d2h_into_a_slice_of_a_pool_without_synchronize():
    pool = torch.zeros(256).pin_memory()
    pool[64:128].copy_(ready(5), non_blocking=True)
    return pool[64:128].clone(), torch.full((64,), 5.0)


# --- memory that is not pinned: nothing but a blocking copy covers it ----------------------------------------------


@fault()
def d2h_to_pageable_memory_with_device_synchronize():
    out = torch.zeros(64)
    out.copy_(ready(3), non_blocking=True)
    torch.hpu.synchronize()
    torch.hpu.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_to_pageable_memory_with_an_event():
    out, event = torch.zeros(64), torch.hpu.Event()
    out.copy_(ready(3), non_blocking=True)
    event.record()
    event.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_into_a_slice_of_a_pinned_pool_with_device_synchronize():
    pool = pinned(256)
    pool[64:128].copy_(ready(5), non_blocking=True)
    torch.hpu.synchronize()
    return pool[64:128].clone(), torch.full((64,), 5.0)


@fault()
def h2d_pageable_source_reused_after_its_event():
    host, event = torch.full((64,), 3.0), torch.hpu.Event()
    t = torch.empty(64, device="hpu")
    t.copy_(host, non_blocking=True)
    event.record()
    event.synchronize()
    host.fill_(-1)
    return t.cpu(), torch.full((64,), 3.0)


@fault()
def h2d_pageable_source_reused_after_device_synchronize():
    pool = pinned(256)
    source = pool[64:128]
    source.fill_(3)
    t = torch.empty(64, device="hpu")
    t.copy_(source, non_blocking=True)
    torch.hpu.synchronize()
    source.fill_(-1)
    return t.cpu(), torch.full((64,), 3.0)


@fault("lazy")
def an_event_taken_for_a_wait_under_sfg():
    return with_sfg(copied_with_an_event), torch.full((64,), 4.0)


@fault()
def mark_step_taken_for_a_synchronize():
    t, out = ready(1), pinned()
    t.add_(1)
    out.copy_(t, non_blocking=True)
    mark_step()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def wrong_stream_synchronised():
    t, out = ready(7), pinned()
    copier, other = torch.hpu.Stream(), torch.hpu.Stream()
    with torch.hpu.stream(copier):
        out.copy_(t, non_blocking=True)
    other.synchronize()
    return out.clone(), torch.full((64,), 7.0)


@fault()
def default_stream_synchronised_for_a_side_stream():
    t, out = ready(7), pinned()
    with torch.hpu.stream(torch.hpu.Stream()):
        out.copy_(t, non_blocking=True)
    torch.hpu.default_stream().synchronize()
    return out.clone(), torch.full((64,), 7.0)


@fault()
def event_recorded_too_early():
    t, out = ready(2), pinned()
    event = torch.hpu.Event()
    event.record()
    out.copy_(t, non_blocking=True)
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_recorded_on_the_wrong_stream():
    t, out = ready(2), pinned()
    event = torch.hpu.Event()
    out.copy_(t, non_blocking=True)
    event.record(torch.hpu.Stream())
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_never_recorded():
    t, out = ready(2), pinned()
    event = torch.hpu.Event()
    out.copy_(t, non_blocking=True)
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_query_ignored():
    t, out = ready(2), pinned()
    out.copy_(t, non_blocking=True)
    event = torch.hpu.Event()
    event.record()
    event.query()
    return out.clone(), torch.full((64,), 2.0)


# --- a copy to the device, whose source is changed too early ------------------------------------------------------


@fault()
def h2d_source_reused():
    source = torch.full((64,), 1.0).pin_memory()
    t = source.to("hpu", non_blocking=True)
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 1.0)


@fault()
def h2d_source_reused_after_mark_step():
    source = torch.full((64,), 1.0).pin_memory()
    t = source.to("hpu", non_blocking=True)
    mark_step()
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 1.0)


@fault()
def h2d_pageable_source_reused():
    """The bridge copies a small pageable source at the call; the device is stricter, since PyTorch promises nothing."""
    source = torch.full((64,), 1.0)
    t = source.to("hpu", non_blocking=True)
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 1.0)


@fault()
def h2d_large_pageable_source_reused():
    """From 1 MiB on, the bridge also reads the source later, in another thread."""
    source = torch.ones(BIG // 4)
    t = source.to("hpu", non_blocking=True)
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.ones(BIG // 4)


@fault()
def ring_slot_reused_without_its_event():
    """One staging buffer for two chunks, refilled before its copy ran."""
    slot = torch.empty(64, pin_memory=True)
    cache = ready(0, 128)
    for chunk in range(2):
        slot.fill_(chunk + 1)
        cache[chunk * 64 : (chunk + 1) * 64].copy_(slot, non_blocking=True)
    torch.hpu.synchronize()
    return cache.cpu(), torch.cat([torch.ones(64), torch.full((64,), 2.0)])


@fault()
def index_buffer_reused_before_the_gather_ran():
    t = torch.arange(16.0, device="hpu")
    torch.hpu.synchronize()
    index = torch.arange(8).pin_memory()
    rows = t.index_select(0, index.to("hpu", non_blocking=True))
    index.copy_(torch.arange(8, 16))  # the next request's slots
    torch.hpu.synchronize()
    return rows.cpu(), torch.arange(8.0)
