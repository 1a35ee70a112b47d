# SPDX-License-Identifier: Apache-2.0
"""Pinned host buffers, device buffers, and the copies between them and memory objects.

LMCache cuts its memory objects out of one large buffer. The bridge takes an address for pinned only where it is
the first byte of an allocation (see :mod:`.pinning`), so nearly every object would go through a bounce buffer, one
thread copying (backend/synapse_helpers/device.cpp), and would have to be waited for. The ring does that one host copy
itself, with several threads, while the device copies the neighbouring buffers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from .device import Backend, Event

__all__ = ["DevicePool", "HostCopier", "Ring", "Slot"]

Array = npt.NDArray[Any]

#: Below this, starting threads costs more than it saves.
_INLINE_BYTES = 1 << 20


class Slot:
    """One pinned buffer of a ring.

    Attributes:
        buffer: uint8 ``[nbytes]``, pinned where the device allows it.
    """

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        self._event: Event | None = None
        self._job: Callable[[], None] | None = None

    def tensor(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the first ``elements`` elements as a one-dimensional tensor; starts at the buffer's first byte."""
        return self.buffer[: elements * dtype.itemsize].view(dtype)

    def busy(self, event: Event, job: Callable[[], None] | None = None) -> None:
        """Mark as in use by the device until ``event``; then run ``job`` before the next use."""
        self._event, self._job = event, job

    def settle(self) -> None:
        """Wait until the device is done with the buffer, and run the job."""
        event, job = self._event, self._job
        self._event = self._job = None
        if event is not None:
            event.synchronize()
        if job is not None:
            job()

    def finish(self) -> None:
        """Settle the buffer if it has a job."""
        if self._job is not None:
            self.settle()

    def forget(self) -> None:
        """Drop event and job. Only after the device has been synchronised."""
        self._event = self._job = None


class Ring:
    """Pinned buffers of one size, used in turn; a buffer is reused when the event of its last use has happened.

    Args:
        backend: Device to pin for.
        nbytes: Size of a buffer.
        count: Number of buffers.
    """

    def __init__(self, backend: Backend, nbytes: int, count: int) -> None:
        self._slots = deque(Slot(backend.pinned(nbytes)) for _ in range(count))
        self.pinned = all(backend.is_pinned(slot.buffer) for slot in self._slots)

    def __len__(self) -> int:
        """Return the number of buffers."""
        return len(self._slots)

    def acquire(self) -> Slot:
        """Return the buffer that was used longest ago, settled."""
        slot = self._slots[0]
        slot.settle()
        self._slots.rotate(-1)
        return slot

    def drain(self) -> None:
        """Run the remaining jobs, oldest first, each after its event."""
        for slot in self._slots:
            slot.finish()

    def reset(self) -> None:
        """Forget everything under way, jobs included. Only after the device has been synchronised."""
        for slot in self._slots:
            slot.forget()


class DevicePool:
    """Device buffers for what was copied to the device, kept for the next request.

    The bridge makes a copy to the device wait for what wrote its destination, not for what still reads it
    (backend/synapse_helpers/device.cpp), so a buffer is reused only after the event of its last reader.

    Args:
        backend: The device.
        limit: Most bytes to hold.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._limit = limit
        self._held = 0
        self._idle: deque[tuple[torch.Tensor, Event | None]] = deque()
        self._taken: list[torch.Tensor] = []

    def take(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a one-dimensional buffer that nothing reads any more; its content is undefined."""
        needed = elements * dtype.itemsize
        while self._held + needed > self._limit and self._idle:
            fitting = (n for n, (tensor, _) in enumerate(self._idle) if tensor.numel() == elements)
            position = next((n for n in fitting if self._idle[n][0].dtype == dtype), None)
            tensor, event = self._idle[position or 0]
            del self._idle[position or 0]
            if event is not None:
                event.synchronize()
            if position is not None:
                self._taken.append(tensor)
                return tensor
            self._held -= tensor.nbytes
        tensor = torch.empty(elements, dtype=dtype, device=self._backend.device)
        self._held += needed
        self._taken.append(tensor)
        return tensor

    def give(self, event: Event | None = None) -> None:
        """Return all buffers taken so far; whatever reads them comes before ``event``."""
        self._idle.extend((tensor, event) for tensor in self._taken)
        self._taken.clear()

    def drop(self) -> None:
        """Free the idle buffers: the request that follows takes device memory of another kind."""
        self._held -= sum(tensor.nbytes for tensor, _ in self._idle)
        self._idle.clear()

    def settled(self) -> None:
        """The device has been synchronised: nothing reads any buffer."""
        self.give()
        self._idle = deque((tensor, None) for tensor, _ in self._idle)


class HostCopier:
    """Copies rows between host arrays with several threads.

    numpy releases the GIL while it copies and starts no threads of its own; vLLM limits PyTorch to one.

    Args:
        threads: Threads in all, the calling one included; default: the processors of this process, at most 4.

    Attributes:
        copied_bytes: Bytes that were copied since the start: what a transfer costs the host.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.copied_bytes = 0
        self.threads = threads or min(4, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self.threads - 1, "lmcache-gaudi-copy") if self.threads > 1 else None

    def copy(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Copy each source to its destination.

        Args:
            pairs: ``(destination, source)`` of equal shape and dtype.
        """
        nbytes = sum(source.nbytes for _, source in pairs)
        self.copied_bytes += nbytes
        if self._pool is None or nbytes < _INLINE_BYTES:
            _copy(pairs)
            return
        # A single pair is split along its first dimension (planes); several are distributed among the threads.
        tasks = _split(pairs[0], self.threads) if len(pairs) == 1 else list(pairs)
        futures = [self._pool.submit(_copy, tasks[n :: self.threads]) for n in range(1, self.threads)]
        try:
            _copy(tasks[:: self.threads])
        finally:
            # Also after an error: no thread may still write into buffers that the next request uses.
            wait(futures)
        for future in futures:
            future.result()


def _copy(pairs: Sequence[tuple[Array, Array]]) -> None:
    for destination, source in pairs:
        np.copyto(destination, source, casting="no")


def _split(pair: tuple[Array, Array], pieces: int) -> list[tuple[Array, Array]]:
    destination, source = pair
    bounds = [len(source) * n // pieces for n in range(pieces + 1)]
    return [(destination[first:last], source[first:last]) for first, last in pairwise(bounds) if first < last]
