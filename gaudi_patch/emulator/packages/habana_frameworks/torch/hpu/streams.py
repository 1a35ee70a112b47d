# mypy: ignore-errors
"""Streams, built on the emulated device's guard."""

import ctypes
import os

import torch

from ._utils import _get_device_index

_is_lazy_mode = os.getenv("PT_HPU_LAZY_MODE", "1") != "0"
_HPU_DEVICE_TYPE = 15  # c10::DeviceType::HPU


class Stream(torch.Stream):
    """A queue of device work. ``device`` and ``priority`` are accepted and ignored, as in the bridge."""

    def __new__(cls, device=None, priority=0, **kwargs):
        known = {"stream_id", "device_index", "device_type", "stream_ptr", "is_default_stream"}
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise TypeError(f"'{unknown[0]}' is an invalid keyword argument for this function")
        if "device_index" in kwargs:
            kwargs["device_index"] = _get_device_index(kwargs["device_index"])
        stream_id = kwargs.get("stream_id") or kwargs.get("stream_ptr") or 0
        if stream_id or kwargs.get("is_default_stream"):
            return super().__new__(cls, stream_id=stream_id, device_index=0, device_type=_HPU_DEVICE_TYPE)
        return super().__new__(cls, device="hpu", priority=priority)

    def wait_event(self, event):
        event.wait(self)

    def wait_stream(self, stream):
        self.wait_event(stream.record_event())

    def record_event(self, event=None):
        if event is None:
            event = torch.hpu.Event()
        event.record(self)
        return event

    def query(self):
        return super().query()

    def synchronize(self):
        super().synchronize()

    @property
    def hpu_stream(self):
        return self.stream_id

    @property
    def _as_parameter_(self):
        return ctypes.c_void_p(self.hpu_stream)

    def __eq__(self, other):
        return isinstance(other, Stream) and self.stream_id == other.stream_id

    def __hash__(self):
        return hash((self.hpu_stream, self.device))

    def __repr__(self):
        return f"<torch.hpu.Stream device={self.device} hpu_stream={self.hpu_stream:#x}>"

    @property
    def device_index(self):
        return self.device  # a torch.device, not a number: streams.py:148 of the bridge

    def id(self):
        return self.stream_id


class StreamContext:
    """A context manager that selects a stream; it does nothing for None."""

    def __init__(self, stream):
        self.stream = stream
        self.src_prev_stream = None

    def __enter__(self):
        if self.stream is None:
            return
        self.src_prev_stream = current_stream()
        if self.src_prev_stream.stream_id != self.stream.stream_id:
            set_stream(self.stream)

    def __exit__(self, type, value, traceback):
        if self.stream is not None and self.src_prev_stream.stream_id != self.stream.stream_id:
            set_stream(self.src_prev_stream)


def stream(stream):
    return StreamContext(stream)


# In lazy mode the bridge keeps the current stream in a module global, although C++ keeps one per thread
# (streams.py:232-289, HPUStream.cpp:54). So threads that switch streams in lazy mode interfere with each other.
_cached_stream = None


def set_stream(stream):
    global _cached_stream
    if stream is None:
        return
    if _is_lazy_mode:
        if _cached_stream is not None and _cached_stream.stream_id == stream.stream_id:
            return
        _cached_stream = stream
    torch._C._accelerator_setStream(stream)


def current_stream(device=None):
    global _cached_stream
    if _is_lazy_mode and _cached_stream is not None:
        return _cached_stream
    now = torch._C._accelerator_getStream(_get_device_index(device, optional=True))
    stream = Stream(stream_id=now.stream_id, is_default_stream=now.stream_id == 0)
    if _is_lazy_mode:
        _cached_stream = stream
    return stream


def default_stream(device=None):
    _get_device_index(device, optional=True)
    return Stream(stream_id=0, is_default_stream=True)


def get_stream_info(stream):
    return (stream.stream_id, 0, _HPU_DEVICE_TYPE)


def record_stream(self, stream):
    """Check the type only: queued work owns the memory it uses here, so there is nothing to record."""
    if not isinstance(stream, torch.Stream):
        raise TypeError(f"a stream is needed, not {type(stream).__name__}")
