# mypy: ignore-errors
"""Events, built on the emulated device's guard."""

import ctypes

import torch


class Event(torch.Event):
    """A marker in a stream."""

    def __new__(cls, enable_timing=False):
        event = super().__new__(cls, device="hpu", enable_timing=enable_timing)
        event._recorded = False
        return event

    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        super().record(torch.hpu.current_stream() if stream is None else stream)
        self._recorded = True

    def wait(self, stream=None):
        if self._recorded:
            super().wait(torch.hpu.current_stream() if stream is None else stream)

    def query(self):
        return super().query()

    def elapsed_time(self, end_event):
        """Wait for both events and return the milliseconds between them. torch.Event's method refuses subclasses."""
        return torch.ops.hpu_emulator.elapsed_time(self.event_id, end_event.event_id)

    def synchronize(self):
        super().synchronize()

    @property
    def hpu_event(self):
        return self.event_id

    @property
    def _as_parameter_(self):
        return ctypes.c_void_p(self.hpu_event)

    def __repr__(self):
        return f"<htorch.hpu.Event {self.hpu_event:#x}>" if self.hpu_event else "<htorch.hpu.Event uninitialized>"
