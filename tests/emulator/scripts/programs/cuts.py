"""Where a lazy graph is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .registry import mark_step, program


def _pending(run_after: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
    """Leave one operator pending on ``t``; the next operation may cut the graph."""
    t = torch.ones(16, device="hpu")

    def run():
        t.add_(1)
        return run_after(t)

    return run


@program
def cut_by_mark_step():
    return _pending(lambda t: mark_step())


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
