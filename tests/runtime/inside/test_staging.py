"""staging.py: buffers are reused only after the device has finished with them, and rows are copied whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lmcache.gaudi.device import HostBackend
from lmcache.gaudi.staging import DevicePool, HostCopier, Ring

MIB = 1 << 20


class Event:
    """An event that records when it was waited for."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def synchronize(self) -> None:
        self.log.append(self.name)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("pairs", [1, 2, 5, 8])
def test_large_copies_are_complete_whatever_the_number_of_threads(threads: int, pairs: int) -> None:
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 1 << 15, (6, 256, 1024), dtype=np.int16) for _ in range(pairs)]
    targets = [np.zeros_like(source) for source in sources]
    HostCopier(threads).copy(list(zip(targets, sources, strict=True)))
    for target, source in zip(targets, sources, strict=True):
        np.testing.assert_array_equal(target, source)


def test_small_copies_and_one_plane_are_complete() -> None:
    target = np.zeros((1, 3, 4), dtype=np.uint8)
    HostCopier(4).copy([(target, np.ones_like(target))])
    assert target.all()
    target = np.zeros((1, MIB, 2), dtype=np.uint8)
    HostCopier(4).copy([(target, np.ones_like(target))])
    assert target.all()


def test_a_failure_in_any_thread_is_raised() -> None:
    good = np.zeros((2, MIB), dtype=np.uint8)
    bad = (np.zeros((2, MIB), dtype=np.int16), np.zeros((2, MIB), dtype=np.uint8))
    for position in range(3):
        tasks = [(good, good.copy()) for _ in range(3)]
        tasks[position] = bad
        with pytest.raises(TypeError):
            HostCopier(3).copy(tasks)


def test_ring_buffers_are_used_in_turn_and_settled_before_reuse() -> None:
    log: list[str] = []
    ring = Ring(HostBackend(), 64, 2)
    first = ring.acquire()
    first.busy(Event(log, "first"), lambda: log.append("unpack first"))
    second = ring.acquire()
    assert second is not first
    second.busy(Event(log, "second"), lambda: log.append("unpack second"))
    assert log == []
    assert ring.acquire() is first
    assert log == ["first", "unpack first"]
    ring.drain()
    assert log == ["first", "unpack first", "second", "unpack second"]
    ring.drain()
    assert len(log) == 4


def test_after_an_error_no_job_of_the_ring_runs() -> None:
    log: list[str] = []
    ring = Ring(HostBackend(), 64, 2)
    ring.acquire().busy(Event(log, "event"), lambda: log.append("job"))
    ring.reset()
    ring.drain()
    assert log == []


def test_a_slot_starts_where_its_buffer_starts() -> None:
    slot = Ring(HostBackend(), 64, 1).acquire()
    tensor = slot.tensor(5, torch.bfloat16)
    assert tensor.shape == (5,)
    assert tensor.data_ptr() == slot.buffer.data_ptr()


def test_device_buffers_wait_for_their_last_reader_and_are_bounded() -> None:
    log: list[str] = []
    pool = DevicePool(HostBackend(), 3 * 64)
    buffers = [pool.take(32, torch.bfloat16) for _ in range(2)]
    pool.give(Event(log, "a"))
    third = pool.take(32, torch.bfloat16)  # there is room: no wait
    assert log == []
    pool.give(Event(log, "b"))
    assert pool.take(32, torch.bfloat16) is buffers[0]
    assert log == ["a"]
    assert pool.take(32, torch.bfloat16) is buffers[1]
    assert pool.take(32, torch.bfloat16) is third
    assert log == ["a", "a", "b"]


def test_device_buffers_of_another_size_or_dtype_make_room() -> None:
    log: list[str] = []
    pool = DevicePool(HostBackend(), 128)
    pool.take(32, torch.bfloat16)
    pool.take(32, torch.bfloat16)
    pool.give(Event(log, "a"))
    other = pool.take(16, torch.float32)
    assert (other.numel(), other.dtype) == (16, torch.float32)
    assert log == ["a"]


def test_settled_buffers_are_not_waited_for() -> None:
    log: list[str] = []
    pool = DevicePool(HostBackend(), 64)
    buffer = pool.take(32, torch.bfloat16)
    pool.give(Event(log, "a"))
    pool.settled()
    assert pool.take(32, torch.bfloat16) is buffer
    assert log == []
