"""Small programs and what the device counted: ``run_counters.py REPORT MODE``.

Before each program the device is idle and the counters and known signatures are forgotten; the counters are read right
after it, before any further wait.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import device_process
import torch

PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {}


def program(prepare: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
    """Register a program: a function that prepares tensors and returns what is to be counted."""
    PROGRAMS[prepare.__name__] = prepare
    return prepare


def _mark_step() -> None:
    import habana_frameworks.torch.core as htcore

    htcore.mark_step()


# --- launches and signatures --------------------------------------------------------------------------------------


@program
def two_operators_and_a_mark_step():
    t = torch.ones(16, device="hpu")

    def run():
        u = (t + 1) * 2
        _mark_step()
        return u

    return run


@program
def the_same_program_twice():
    once = two_operators_and_a_mark_step()
    return lambda: (once(), once())


@program
def the_same_program_on_another_shape():
    a, b = torch.ones(16, device="hpu"), torch.ones(17, device="hpu")

    def run():
        for t in (a, b):
            t * 2
            _mark_step()

    return run


@program
def another_scalar_is_another_attribute():
    t = torch.ones(4, 16, device="hpu")

    def run():
        for dim in (0, 1):
            t.sum(dim, keepdim=True)
            _mark_step()

    return run


@program
def a_slice_at_four_positions():
    t = torch.ones(64, device="hpu")

    def run():
        for start in range(0, 64, 16):
            t[start : start + 16] * 2
            _mark_step()

    return run


@program
def views_alone_launch_nothing():
    t = torch.ones(4, 16, device="hpu")

    def run():
        t.view(64)[3:].unsqueeze(0).expand(3, -1).transpose(0, 1)
        torch.hpu.synchronize()

    return run


@program
def mark_steps_without_work():
    def run():
        for _ in range(3):
            _mark_step()

    return run


# --- where a lazy graph is cut ------------------------------------------------------------------------------------


def _pending(run_after: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
    """One operator is pending on ``t``; what comes after it may cut the graph."""
    t = torch.ones(16, device="hpu")

    def run():
        t.add_(1)
        return run_after(t)

    return run


@program
def cut_by_mark_step():
    return _pending(lambda t: _mark_step())


@program
def cut_by_synchronize():
    return _pending(lambda t: torch.hpu.synchronize())


@program
def cut_by_a_copy_to_the_host_of_the_pending_tensor():
    return _pending(lambda t: t.cpu())


@program
def cut_by_a_non_blocking_copy_to_the_host_of_the_pending_tensor():
    return _pending(lambda t: t.to("cpu", non_blocking=True))


@program
def cut_by_a_copy_to_the_host_of_a_view_of_the_pending_tensor():
    return _pending(lambda t: t[4:8].cpu())


@program
def cut_by_a_copy_to_the_device_into_the_pending_tensor():
    source = torch.zeros(16)
    return _pending(lambda t: t.copy_(source))


@program
def cut_by_item():
    return _pending(lambda t: t[0].item())


@program
def cut_by_nonzero():
    return _pending(lambda t: t.nonzero())


@program
def cut_by_a_boolean_index():
    mask = torch.ones(16, dtype=torch.bool, device="hpu")
    return _pending(lambda t: t[mask])


@program
def cut_by_set_stream():
    side = torch.hpu.Stream()

    def enter(_t):
        with torch.hpu.stream(side):
            pass

    return _pending(enter)


@program
def cut_by_event_record():
    event = torch.hpu.Event()
    return _pending(lambda t: event.record())


@program
def cut_by_synchronizing_another_stream():
    side = torch.hpu.Stream()
    return _pending(lambda t: side.synchronize())


@program
def cut_by_querying_another_stream():
    side = torch.hpu.Stream()
    return _pending(lambda t: side.query())


@program
def not_cut_by_querying_the_current_stream():
    return _pending(lambda t: torch.hpu.current_stream().query())


@program
def not_cut_by_synchronizing_the_current_stream():
    return _pending(lambda t: torch.hpu.current_stream().synchronize())


@program
def not_cut_by_an_event_recorded_on_another_stream():
    event, side = torch.hpu.Event(), torch.hpu.Stream()
    return _pending(lambda t: event.record(side))


@program
def not_cut_by_a_copy_to_the_host_of_another_tensor():
    other = torch.ones(16, device="hpu")
    return _pending(lambda t: other.cpu())


@program
def not_cut_by_a_copy_to_the_device_into_another_tensor():
    other, source = torch.ones(16, device="hpu"), torch.zeros(16)
    return _pending(lambda t: other.copy_(source))


@program
def not_cut_by_allocation_and_views():
    return _pending(lambda t: (torch.empty(16, device="hpu"), t.view(4, 4)[1], t.shape))


# --- copies -------------------------------------------------------------------------------------------------------


@program
def blocking_copy_from_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: t.copy_(host)


@program
def non_blocking_copy_from_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: t.copy_(host, non_blocking=True)


@program
def non_blocking_copy_from_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(host, non_blocking=True)


@program
def non_blocking_copy_from_the_first_slice_of_a_pinned_pool():
    """Pinned memory is known by its base address: the first object of a pool is recognised."""
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(pool[:16], non_blocking=True)


@program
def non_blocking_copy_from_another_slice_of_a_pinned_pool():
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(pool[16:32], non_blocking=True)


@program
def blocking_copy_to_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: host.copy_(t)


@program
def non_blocking_copy_to_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: host.copy_(t, non_blocking=True)


@program
def non_blocking_copy_to_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: host.copy_(t, non_blocking=True)


@program
def non_blocking_copy_to_a_slice_of_a_pinned_pool():
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: pool[16:32].copy_(t, non_blocking=True)


@program
def copies_of_several_types():
    sources = [torch.zeros(10, dtype=d) for d in (torch.bfloat16, torch.int8, torch.int64, torch.float8_e4m3fn)]
    return lambda: [s.to("hpu").cpu() for s in sources]


# --- waits --------------------------------------------------------------------------------------------------------


@program
def waits_of_every_kind():
    stream, event = torch.hpu.Stream(), torch.hpu.Event()
    event.record(stream)

    def run():
        torch.hpu.synchronize()
        torch.hpu.synchronize()
        for _ in range(3):
            stream.synchronize()
        event.synchronize()

    return run


# --- writes through views, traffic, staging -----------------------------------------------------------------------


@program
def writes_to_whole_tensors():
    t, index, rows = (
        torch.zeros(64, 16, device="hpu"),
        torch.tensor([3, 1], device="hpu"),
        torch.ones(2, 16, device="hpu"),
    )

    def run():
        t.add_(1)
        t.index_copy_(0, index, rows)
        torch.hpu.synchronize()

    return run


@program
def writes_through_views():
    t, index, rows = (
        torch.zeros(4, 16, 16, device="hpu"),
        torch.tensor([3, 1], device="hpu"),
        torch.ones(2, 16, device="hpu"),
    )

    def run():
        t[1].add_(1)
        t.view(64, 16).index_copy_(0, index, rows)
        t[2, 3].copy_(rows[0])
        torch.hpu.synchronize()

    return run


@program
def traffic_of_a_gather():
    t = torch.zeros(1000, 16, device="hpu")
    index = torch.arange(10, dtype=torch.int32, device="hpu")

    def run():
        rows = t.index_select(0, index)
        torch.hpu.synchronize()
        return rows

    return run


@program
def traffic_of_a_scatter():
    t, rows = torch.zeros(1000, 16, device="hpu"), torch.ones(10, 16, device="hpu")
    index = torch.arange(10, dtype=torch.int64, device="hpu")

    def run():
        t.index_copy_(0, index, rows)
        torch.hpu.synchronize()

    return run


@program
def traffic_of_an_addition():
    a, b = torch.ones(256, device="hpu"), torch.ones(256, device="hpu")

    def run():
        c = a + b
        torch.hpu.synchronize()
        return c

    return run


@program
def traffic_of_a_concatenation():
    parts = [torch.ones(128, device="hpu") for _ in range(3)]

    def run():
        c = torch.cat(parts)
        torch.hpu.synchronize()
        return c

    return run


@program
def staging_of_two_live_results():
    t = torch.ones(1 << 14, device="hpu")

    def run():
        u = t + 1
        w = u + 1
        torch.hpu.synchronize()
        del u, w

    return run


@program
def staging_of_results_one_after_the_other():
    t = torch.ones(1 << 14, device="hpu")

    def run():
        for _ in range(4):
            u = t + 1
            torch.hpu.synchronize()
            del u

    return run


# --- operators that the device cannot run -------------------------------------------------------------------------


@program
def index_put_of_int8_falls_back():
    t, index = torch.zeros(8, dtype=torch.int8, device="hpu"), torch.tensor([1], device="hpu")
    value = torch.ones(1, dtype=torch.int8, device="hpu")
    return lambda: t.index_put_((index,), value)


@program
def index_put_of_fp8_falls_back():
    t = torch.zeros(8, dtype=torch.float8_e4m3fn, device="hpu")
    index, value = torch.tensor([1], device="hpu"), torch.ones(1, device="hpu").to(torch.float8_e4m3fn)
    return lambda: t.index_put_((index,), value)


@program
def index_copy_of_int64_falls_back():
    t, index = torch.zeros(8, dtype=torch.int64, device="hpu"), torch.tensor([1], device="hpu")
    value = torch.ones(1, dtype=torch.int64, device="hpu")
    return lambda: t.index_copy_(0, index, value)


@program
def index_select_of_six_dimensions_falls_back():
    t, index = torch.zeros(2, 2, 2, 2, 2, 2, device="hpu"), torch.tensor([1], device="hpu")
    return lambda: t.index_select(0, index)


@program
def index_copy_of_fp8_is_a_device_operator():
    t = torch.zeros(8, 4, dtype=torch.float8_e4m3fn, device="hpu")
    index, value = torch.tensor([1], device="hpu"), torch.zeros(1, 4, dtype=torch.float8_e4m3fn, device="hpu")
    return lambda: (t.index_copy_(0, index, value), torch.hpu.synchronize())


def _strict(emulator: Any) -> dict[str, str]:
    """With strict="raise" each operator that falls back raises instead."""
    emulator.configure(strict="raise")
    outcome = {}
    for name, prepare in PROGRAMS.items():
        if name.endswith("_falls_back"):
            run = prepare()
            try:
                run()
                outcome[name] = "ran"
            except NotImplementedError as error:
                outcome[name] = str(error)
    emulator.configure(strict="count")
    return outcome


def _int64_bytes(emulator: Any) -> dict[str, int]:
    """Return the bytes that cross the bus for ten int64 values, carried as they are and as int32."""
    counted = {}
    for carried in (False, True):
        emulator.configure(int64_as_int32=carried)
        emulator.counters.reset()
        torch.arange(10).to("hpu")
        counted[str(carried)] = emulator.counters.snapshot()["h2d_bytes"]
    try:
        torch.tensor([2**40]).to("hpu")
        counted["out of range"] = 0
    except RuntimeError:
        counted["out of range"] = 1
    emulator.configure(int64_as_int32=False)
    return counted


def main() -> None:
    path, mode = device_process.arguments()
    emulator = device_process.activate(mode)
    counted: dict[str, Any] = {}
    for name, prepare in PROGRAMS.items():
        try:
            run = prepare()
            torch.hpu.synchronize()
            emulator.counters.reset(signatures=True)
            kept = run()
            counted[name] = emulator.counters.snapshot()
            torch.hpu.synchronize()
            del kept
        except Exception:
            counted[name] = {"failed": traceback.format_exc()}
    device_process.report(
        path, {"counted": counted, "strict": _strict(emulator), "int64_bytes": _int64_bytes(emulator)}
    )


if __name__ == "__main__":
    main()
