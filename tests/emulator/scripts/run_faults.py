"""Programs with one deliberate fault each, and their correct twins: ``run_faults.py REPORT MODE REPEATS``.

A fault is caught when the program's result is not what a lucky run would give, or when the device refuses it. Each
program returns ``(observed, expected)``. Any other error is a fault of the device and counts as neither.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import device_process
import torch

import gaudi_patch.emulator


class Refused(Exception):  # noqa: N818 - not an error of the program
    """The device did not let the program have its way."""


Program = Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Entry:
    run: Program
    #: "lazy", "eager" or "both": the rules under which the program is wrong.
    rules: str


FAULTS: dict[str, Entry] = {}
CORRECT: dict[str, Program] = {}

BIG = 1 << 20  # bytes


def fault(rules: str = "both", hidden_by_sync: bool = True) -> Callable[[Program], Program]:
    """Register a fault; ``hidden_by_sync``: a schedule without delay hides it (read by the tests from the source)."""

    def register(function: Program) -> Program:
        FAULTS[function.__name__] = Entry(function, rules)
        return function

    return register


def correct(function: Program) -> Program:
    CORRECT[function.__name__] = function
    return function


def _ready(value: float, count: int = 64) -> torch.Tensor:
    """Return a device tensor whose content is there."""
    t = torch.full((count,), float(value), device="hpu")
    torch.hpu.synchronize()
    return t


def _mark_step() -> None:
    import habana_frameworks.torch.core as htcore

    htcore.mark_step()


def _pinned(count: int = 64, **options: Any) -> torch.Tensor:
    return torch.zeros(count, **options).pin_memory()


# --- a copy to the host, read too early ---------------------------------------------------------------------------


@fault()
def d2h_without_synchronize():
    t, out = _ready(3), _pinned()
    out.copy_(t, non_blocking=True)
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_of_a_pending_result_without_synchronize():
    t, out = _ready(3), _pinned()
    out.copy_(t + 1, non_blocking=True)
    return out.clone(), torch.full((64,), 4.0)


@fault()
def d2h_to_pageable_memory_without_synchronize():
    out = (_ready(3) * 2).to("cpu", non_blocking=True)
    return out.clone(), torch.full((64,), 6.0)


@fault()
def d2h_into_a_slice_of_a_pool_without_synchronize():
    pool = torch.zeros(256).pin_memory()
    pool[64:128].copy_(_ready(5), non_blocking=True)
    return pool[64:128].clone(), torch.full((64,), 5.0)


# --- memory that is not pinned: nothing but a blocking copy covers it ----------------------------------------------


@fault()
def d2h_to_pageable_memory_with_device_synchronize():
    out = torch.zeros(64)
    out.copy_(_ready(3), non_blocking=True)
    torch.hpu.synchronize()
    torch.hpu.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_to_pageable_memory_with_an_event():
    out, event = torch.zeros(64), torch.hpu.Event()
    out.copy_(_ready(3), non_blocking=True)
    event.record()
    event.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@fault()
def d2h_into_a_slice_of_a_pinned_pool_with_device_synchronize():
    pool = _pinned(256)
    pool[64:128].copy_(_ready(5), non_blocking=True)
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
    pool = _pinned(256)
    source = pool[64:128]
    source.fill_(3)
    t = torch.empty(64, device="hpu")
    t.copy_(source, non_blocking=True)
    torch.hpu.synchronize()
    source.fill_(-1)
    return t.cpu(), torch.full((64,), 3.0)


def _with_sfg(program: Callable[[], torch.Tensor]) -> torch.Tensor:
    device = gaudi_patch.emulator.current()
    device.configure(sfg=True)
    try:
        return program()
    finally:
        torch.hpu.synchronize()
        device.configure(sfg=False)


def _copied_with_an_event() -> torch.Tensor:
    out, event = _pinned(), torch.hpu.Event()
    out.copy_(_ready(3) + 1, non_blocking=True)
    event.record()
    event.synchronize()
    return out.clone()


@fault("lazy")
def an_event_taken_for_a_wait_under_sfg():
    return _with_sfg(_copied_with_an_event), torch.full((64,), 4.0)


@fault()
def mark_step_taken_for_a_synchronize():
    t, out = _ready(1), _pinned()
    t.add_(1)
    out.copy_(t, non_blocking=True)
    _mark_step()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def wrong_stream_synchronised():
    t, out = _ready(7), _pinned()
    copier, other = torch.hpu.Stream(), torch.hpu.Stream()
    with torch.hpu.stream(copier):
        out.copy_(t, non_blocking=True)
    other.synchronize()
    return out.clone(), torch.full((64,), 7.0)


@fault()
def default_stream_synchronised_for_a_side_stream():
    t, out = _ready(7), _pinned()
    with torch.hpu.stream(torch.hpu.Stream()):
        out.copy_(t, non_blocking=True)
    torch.hpu.default_stream().synchronize()
    return out.clone(), torch.full((64,), 7.0)


@fault()
def event_recorded_too_early():
    t, out = _ready(2), _pinned()
    event = torch.hpu.Event()
    event.record()
    out.copy_(t, non_blocking=True)
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_recorded_on_the_wrong_stream():
    t, out = _ready(2), _pinned()
    event = torch.hpu.Event()
    out.copy_(t, non_blocking=True)
    event.record(torch.hpu.Stream())
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_never_recorded():
    t, out = _ready(2), _pinned()
    event = torch.hpu.Event()
    out.copy_(t, non_blocking=True)
    event.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@fault()
def event_query_ignored():
    t, out = _ready(2), _pinned()
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
    _mark_step()
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 1.0)


@fault()
def h2d_pageable_source_reused():
    """The bridge copies a small pageable source at the call; the device is stricter: PyTorch promises nothing."""
    source = torch.full((64,), 1.0)
    t = source.to("hpu", non_blocking=True)
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.full((64,), 1.0)


@fault()
def h2d_large_pageable_source_reused():
    """From 1 MiB on the bridge too reads it later, in another thread."""
    source = torch.ones(BIG // 4)
    t = source.to("hpu", non_blocking=True)
    source.fill_(9)
    torch.hpu.synchronize()
    return t.cpu(), torch.ones(BIG // 4)


@fault()
def ring_slot_reused_without_its_event():
    """One staging buffer for two chunks, filled again before its copy ran."""
    slot = torch.empty(64, pin_memory=True)
    cache = _ready(0, 128)
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


# --- streams that are not ordered ---------------------------------------------------------------------------------


@fault()
def read_on_another_stream_without_a_wait():
    t, out = _ready(1), _pinned()
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
    t = _ready(1)
    with torch.hpu.stream(torch.hpu.Stream()):
        t.add_(4)
    out = _pinned()
    out.copy_(t * 3, non_blocking=True)
    torch.hpu.default_stream().synchronize()
    result = out.clone()
    torch.hpu.synchronize()
    return result, torch.full((64,), 15.0)


@fault()
def default_stream_result_read_on_a_side_stream():
    """Under eager mode the bridge makes a side stream wait for the default one; the device does not, unless asked."""
    t, out = _ready(1), _pinned()
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
    t, out = _ready(1), _pinned()
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
    """``count`` floats at an address. The kernel reads them, into a pipe: what may not be read is an error."""
    libc = ctypes.CDLL(None, use_errno=True)
    read_end, write_end = os.pipe()
    written = libc.write(write_end, ctypes.c_void_p(address), ctypes.c_size_t(4 * count))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        data = stream.read()
    if written != 4 * count:
        raise Refused(f"the read of device memory was refused: {os.strerror(ctypes.get_errno())}")
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


@fault(hidden_by_sync=False)  # under lazy mode nothing is launched before the graph is cut, whatever the schedule
def device_memory_peeked():
    t = _ready(1)
    u = t + 1
    return _peek(u.data_ptr(), 64), torch.full((64,), 2.0)


@fault()
def device_memory_peeked_after_mark_step():
    t = _ready(1)
    t.add_(1)
    _mark_step()
    return _peek(t.data_ptr(), 64), torch.full((64,), 2.0)


@fault(hidden_by_sync=False)
def index_used_after_free():
    """An address kept after its tensor died, as code does that registers memory by address."""
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


# --- the correct twins: no false alarm ----------------------------------------------------------------------------


@correct
def d2h_with_device_synchronize():
    t, out = _ready(3), _pinned()
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
    host.copy_(_ready(3), non_blocking=True)
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
        out = _pinned()
        out.copy_(_ready(3) + 1, non_blocking=True)
        torch.hpu.Event().record()
        torch.hpu.synchronize()
        return out.clone()

    return _with_sfg(program), torch.full((64,), 4.0)


@correct
def events_cover_copies_to_pinned_memory_without_sfg():
    return _copied_with_an_event(), torch.full((64,), 4.0)


@correct
def blocking_d2h():
    return (_ready(3) + 1).cpu(), torch.full((64,), 4.0)


@correct
def d2h_with_stream_synchronize():
    t, out = _ready(3), _pinned()
    stream = torch.hpu.Stream()
    with torch.hpu.stream(stream):
        out.copy_(t, non_blocking=True)
    stream.synchronize()
    return out.clone(), torch.full((64,), 3.0)


@correct
def d2h_with_current_stream_synchronize():
    t, out = _ready(3), _pinned()
    out.copy_(t * 2, non_blocking=True)
    torch.hpu.current_stream().synchronize()
    return out.clone(), torch.full((64,), 6.0)


@correct
def d2h_with_an_event_recorded_after_it():
    t, out = _ready(3), _pinned()
    out.copy_(t * 2, non_blocking=True)
    event = torch.hpu.Event()
    event.record()
    event.synchronize()
    return out.clone(), torch.full((64,), 6.0)


@correct
def event_polled_until_done():
    """Polling is a legal wait: the device works while the host asks."""
    t, out = _ready(3), _pinned()
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
    t, out = _ready(3), _pinned()
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
    t, out = _ready(1), _pinned()
    t.add_(1)
    out.copy_(t, non_blocking=True)
    _mark_step()
    torch.hpu.synchronize()
    return out.clone(), torch.full((64,), 2.0)


@correct
def a_blocking_copy_waits_for_earlier_copies_of_its_stream():
    t, out = _ready(1), _pinned()
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
    cache = _ready(0, 128)
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
    t, out = _ready(1), _pinned()
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
    t, out = _ready(1), _pinned()
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
    t, out = _ready(1), _pinned()
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
    t = _ready(1)
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
    t = _ready(1)
    t.add_(1)
    return torch.full((64,), t.sum().item()), torch.full((64,), 128.0)


def _differs(program: Program) -> tuple[bool, str, str]:
    """Return whether the fault shows, and how, and what broke; the device has no pending work afterwards."""
    shown, how, broke = False, "", ""
    try:
        observed, expected = program()
        wrong = int((observed.view(torch.uint8) != expected.view(torch.uint8)).sum())
        shown, how = wrong > 0, f"{wrong} bytes differ, first value {observed.flatten()[0].item()}"
    except Refused as refusal:
        shown, how = True, str(refusal)
    except Exception:
        broke = traceback.format_exc()
    try:
        torch.hpu.synchronize()
    except Exception:
        broke += traceback.format_exc()
    return shown, how, broke


def _repeated(program: Program, repeats: int) -> dict[str, Any]:
    runs = [_differs(program) for _ in range(repeats)]
    return {
        "shown": sum(shown for shown, _, _ in runs),
        "how": sorted({how for _, how, _ in runs}),
        "broke": next((broke for _, _, broke in runs if broke), ""),
    }


def main() -> None:
    path, mode, repeats = device_process.arguments()
    device_process.activate(mode, poison=not mode.endswith("sync"))
    rules = "lazy" if device_process.MODES[mode]["lazy"] else "eager"
    result: dict[str, Any] = {"faults": {}, "correct": {}}
    for name, entry in FAULTS.items():
        if entry.rules in ("both", rules):
            result["faults"][name] = _repeated(entry.run, int(repeats))
    for name, program in CORRECT.items():
        result["correct"][name] = _repeated(program, int(repeats))
    device_process.report(path, result)


if __name__ == "__main__":
    main()
