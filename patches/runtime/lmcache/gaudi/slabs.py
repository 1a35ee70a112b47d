# SPDX-License-Identifier: Apache-2.0
"""Host memory that is pinned piece by piece: a slab for each whole memory object, known by its address.

The bridge takes an address for pinned only where it is the first byte of a pinned allocation
(backend/synapse_helpers/host_memory.cpp). A memory object that is a slab of its own is copied by DMA straight from
and to the device; one that was cut out of a larger buffer needs a second copy by the host.

Pinning takes time, and not all memory can be pinned. A thread keeps some slabs ready, what is missing is pinned on
demand, and what cannot be pinned is ordinary memory, which goes by the ring (:mod:`.staging`).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from . import headroom

if TYPE_CHECKING:
    from .device import Backend

__all__ = ["Slab", "Slabs", "hold", "pin_settings", "release"]

_MIB = 1 << 20
_PROGRESS_SECONDS = 10.0
#: Where memory was short, that long nothing is pinned; where the driver has refused, for good.
_RETRY_SECONDS = 60.0
#: Maximum number of free slabs to keep ready, however small.
_MOST_AHEAD = 64


class Slab:
    """One pinned allocation.

    Attributes:
        buffer: uint8 ``[nbytes]``, from the first byte of the allocation.
        address: Of that byte.
        used: Whether a memory object lies in it.
        holds: Transfers under way that read or write it.
    """

    __slots__ = ("__weakref__", "address", "buffer", "holds", "owner", "used")

    def __init__(self, buffer: torch.Tensor, owner: Slabs) -> None:
        self.buffer = buffer
        self.owner = weakref.ref(owner)
        self.address = buffer.data_ptr()
        self.used = False
        self.holds = 0

    @property
    def nbytes(self) -> int:
        """Return the size of the allocation."""
        return self.buffer.nbytes


#: All slabs of this process by address; the only thing that says whether an address can be copied to directly.
_KNOWN: weakref.WeakValueDictionary[int, Slab] = weakref.WeakValueDictionary()


def hold(tensor: torch.Tensor) -> Slab | None:
    """Return the slab that a memory object's tensor fills from the first byte on, or None; it is held for a transfer.

    Until :func:`release`, no other object gets the slab, whatever becomes of this one. Known by address, never by
    ``is_pinned()``: upstream PyTorch answers True for any part of a pinned buffer.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    slab = _KNOWN.get(tensor.data_ptr())
    if slab is None or tensor.nbytes > slab.nbytes:
        return None
    owner = slab.owner()
    return slab if owner is not None and owner.hold(slab) else None


def release(slab: Slab) -> None:
    """End a hold. Only after the device was waited for."""
    owner = slab.owner()
    if owner is not None:
        owner.release(slab)


def pin_settings() -> tuple[int | None, int]:
    """Read LMCACHE_GAUDI_PIN_MIB and LMCACHE_GAUDI_PIN_AHEAD_MIB.

    Returns:
        Most bytes to pin, None for no limit, and how many bytes of free slabs a thread keeps ready.

    Raises:
        ValueError: A value is not a number of MiB.
    """

    def number(name: str) -> int | None:
        text = os.environ.get(f"LMCACHE_GAUDI_{name}")
        if text is not None and not text.isdecimal():
            raise ValueError(f"LMCACHE_GAUDI_{name}={text!r} is not a number of MiB")
        return None if text is None else int(text) * _MIB

    ahead = number("PIN_AHEAD_MIB")
    return number("PIN_MIB"), 1024 * _MIB if ahead is None else ahead


class Slabs:
    """The memory of one pool of memory objects.

    Args:
        limit: Most bytes of memory, pinned or not, that the pool may have at a time.
        pinned: Most bytes of it to pin; None: all.
        ahead: Bytes of free slabs that a thread keeps ready.
        lock: Held while the pool changes; an RLock, since Python may free objects at any time.
        report: Progress is reported there.
        warn: What could not be pinned, and what to do about it, goes there.
    """

    def __init__(
        self,
        limit: int,
        *,
        pinned: int | None,
        ahead: int,
        lock: threading.RLock,  # type: ignore[valid-type]
        report: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.limit = limit
        self.pin_limit = limit if pinned is None else min(limit, pinned)
        self.pinned_bytes = 0
        self.plain_bytes = 0
        self._ahead = min(ahead, self.pin_limit)
        self._lock = lock
        self._report, self._warn = report, warn
        self._free: dict[int, list[Slab]] = {}
        # Slabs that the thread is pinning: they count already, and nobody has them yet.
        self._underway = 0
        self._arrived = threading.Condition(lock)
        self._backend: Backend | None = None
        self._latest = 0
        self._paused_until = 0.0
        self._told = False
        self._refused = False
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], None] | None = None

    def serve(self, nbytes: int, backend: Backend) -> None:
        """Pin memory for objects of ``nbytes`` bytes from now on; they are whole chunks."""
        with self._lock:
            self._backend, self._latest = backend, nbytes
            if nbytes in self._free or self._closed.is_set():
                return
            self._free[nbytes] = []
        self._report(
            f"memory objects of {nbytes / _MIB:.1f} MiB are pinned one by one, up to {self.pin_limit / _MIB:.0f} MiB; "
            f"{min(self._ahead, _MOST_AHEAD * nbytes) / _MIB:.0f} MiB are kept ready{headroom.memlock()}"
        )
        if self._ahead >= nbytes and self._thread is None:
            pool = weakref.ref(self, lambda _, wanted=self._wanted: wanted.set())  # type: ignore[misc]
            arguments = (pool, self._wanted, self._closed)
            self._thread = threading.Thread(target=_keep_ahead, args=arguments, name="lmcache-gaudi-pin", daemon=True)
            self._thread.start()
            # A separate function object: unregister() removes every registration of a function.
            self._stop = partial(_stop, self._thread, self._wanted, self._closed)
            atexit.register(self._stop)
        self._wanted.set()

    def serves(self, nbytes: int) -> bool:
        """Return whether objects of this size are whole chunks."""
        return nbytes in self._free

    def take(self, nbytes: int) -> Slab | None:
        """Return a slab for an object of ``nbytes`` bytes; None if it is not a whole chunk or cannot be pinned.

        Pinning takes a while; the lock is not held for it, unless the caller holds it. Where the last of the room is
        being pinned ahead, that is waited for: the object would be memory beyond the limit otherwise.
        """
        with self._lock:
            free = self._free.get(nbytes)
            if free is None:
                return None
            reserved = False
            while not free and not (reserved := self._reserve(nbytes)) and self._underway:
                self._arrived.wait()
            slab = free.pop() if free else None
            if slab is not None:
                slab.used = True
            elif not reserved:
                self._wanted.set()
                return None
        if slab is None:
            slab = self._fulfil(nbytes, used=True)
        self._wanted.set()
        return slab

    def give(self, slab: Slab) -> None:
        """Take back a slab whose object is gone; the next object gets it once no transfer holds it any more."""
        with self._lock:
            slab.used = False
            self._offer(slab)

    def hold(self, slab: Slab) -> bool:
        """Keep a slab from its next object while the device reads or writes it; False where its object is gone."""
        with self._lock:
            slab.holds += slab.used
            return slab.used

    def release(self, slab: Slab) -> None:
        """End a hold. Only after the device was waited for."""
        with self._lock:
            slab.holds -= 1
            if not slab.used:
                self._offer(slab)

    def plain(self, nbytes: int) -> torch.Tensor | None:
        """Return ordinary memory, in the place of free slabs where the pool would grow over its limit.

        None if the host has no more: to LMCache the pool is full then, so that it evicts, or does not store.
        """
        with self._lock:
            self._shrink(nbytes)
            try:
                tensor = torch.empty(nbytes, dtype=torch.uint8)
            except (RuntimeError, MemoryError) as error:  # overcommit is off, or the address space is limited
                if not self._refused:
                    self._refused = True
                    held = (self.pinned_bytes + self.plain_bytes) / _MIB
                    self._warn(
                        f"the host has no memory for more than {held:.0f} of {self.limit / _MIB:.0f} MiB: {error}"
                    )
                return None
            self.plain_bytes += nbytes
            return tensor

    def give_plain(self, nbytes: int) -> None:
        """Count ordinary memory as gone."""
        with self._lock:
            self.plain_bytes -= nbytes

    def close(self) -> None:
        """Stop pinning and drop the free slabs; those in use go with their objects."""
        if self._stop is not None:
            self._stop()
            atexit.unregister(self._stop)
        self._closed.set()
        with self._lock:
            for free in self._free.values():
                for slab in free:
                    self._drop(slab)
            self._free.clear()

    def _offer(self, slab: Slab) -> None:
        if slab.holds:
            return
        if slab.nbytes in self._free:
            self._free[slab.nbytes].append(slab)
        else:  # the pool was closed meanwhile
            self._drop(slab)

    def _drop(self, slab: Slab) -> None:
        """Give a free slab back to the bridge, which keeps it pinned for its next allocations (host_memory.cpp, free).

        Its address is forgotten first, because it may be given out again at once.
        """
        _KNOWN.pop(slab.address, None)
        self.pinned_bytes -= slab.nbytes

    def _shrink(self, nbytes: int) -> None:
        for free in self._free.values():
            while free and self.pinned_bytes + self.plain_bytes + nbytes > self.limit:
                self._drop(free.pop())

    def _reserve(self, nbytes: int) -> bool:
        """Count one more slab as pinned, if limits allow it."""
        with self._lock:
            if self._backend is None or self._closed.is_set() or time.monotonic() < self._paused_until:
                return False
            for other, free in self._free.items():  # unused slabs of another size
                while other != nbytes and free and self.pinned_bytes + self.plain_bytes + nbytes > self.limit:
                    self._drop(free.pop())
            if self.pinned_bytes + nbytes > self.pin_limit:
                return False
            if self.pinned_bytes + self.plain_bytes + nbytes > self.limit:
                return False
            self.pinned_bytes += nbytes
            return True

    def _fulfil(self, nbytes: int, *, used: bool = False) -> Slab | None:
        """Pin what was reserved; this takes a while, so the lock is not held."""
        backend = self._backend
        assert backend is not None
        reason = headroom.no_room(nbytes)
        pause = float("inf") if reason is None else _RETRY_SECONDS
        try:
            if reason is None:
                buffer = backend.pinned(nbytes)
                if backend.is_pinned(buffer):
                    slab = Slab(buffer, self)
                    slab.used = used
                    _KNOWN[slab.address] = slab
                    return slab
                reason = "the driver did not pin it"
        except (RuntimeError, MemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        with self._lock:
            self.pinned_bytes -= nbytes
            self._paused_until = time.monotonic() + pause
            told, self._told = self._told, True
        if not told:
            self._warn(
                f"no more host memory could be pinned after {self.pinned_bytes / _MIB:.0f} of "
                f"{self.pin_limit / _MIB:.0f} MiB ({reason}). Memory objects beyond that are copied once more by the "
                "host. Allow more locked memory (ulimit -l unlimited; docker run --ulimit memlock=-1), give the "
                "container more memory, or set max_local_cpu_size or LMCACHE_GAUDI_PIN_MIB to what is available"
                f"{headroom.memlock()}"
            )
        return None

    def _pin_ahead(self) -> bool:
        """Pin one more slab if fewer than wanted are free; return whether to continue."""
        nbytes = self._latest
        with self._lock:
            free = len(self._free.get(nbytes, ()))
            if free >= _MOST_AHEAD or (free + 1) * nbytes > self._ahead or not self._reserve(nbytes):
                return False
            self._underway += 1
        slab = None
        try:
            slab = self._fulfil(nbytes)
        finally:
            with self._lock:
                if slab is not None:
                    self._offer(slab)
                self._underway -= 1
                self._arrived.notify_all()
        return slab is not None

    def _tell(self, begun: float, done: int, *, more: bool) -> None:
        state = f"{self.pinned_bytes / _MIB:.0f} of at most {self.pin_limit / _MIB:.0f} MiB"
        self._report(f"pinned {state} of host memory, {done} objects in {time.monotonic() - begun:.1f} s{' …' * more}")


def _keep_ahead(pool: weakref.ref[Slabs], wanted: threading.Event, closed: threading.Event) -> None:
    """Keep free slabs ready until the pool ends; this thread does not keep the pool alive."""
    while True:
        wanted.wait()
        wanted.clear()
        begun = told = time.monotonic()
        done = 0
        while True:
            slabs = pool()
            if slabs is None or closed.is_set():
                return
            if not slabs._pin_ahead():
                if time.monotonic() - begun > 1.0:
                    slabs._tell(begun, done, more=False)
                break
            done += 1
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                slabs._tell(begun, done, more=True)
            del slabs
        del slabs


def _stop(thread: threading.Thread, wanted: threading.Event, closed: threading.Event) -> None:
    """End the thread; it may be in the middle of pinning one slab."""
    closed.set()
    wanted.set()
    if thread is not threading.current_thread():
        thread.join()
