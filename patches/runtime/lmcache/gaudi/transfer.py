# SPDX-License-Identifier: Apache-2.0
"""A whole request: memory objects into the paged cache, and back.

Knows neither LMCache nor vLLM. A memory object is given as its tensors, one for each section of the layout,
``[kv, layers, tokens, width]``.

Load: pinned buffer filled by the host, copied to the device, scattered; the copies of the next group run while the
device scatters this one. Store: the same backwards. One device-wide synchronize a request, at its end, whatever
happens; in between only events, to reuse buffers and to bound the memory.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from . import rows
from .device import Backend, Event, backend_for
from .direct import Direct
from .kernels import Kernels, Part
from .layout import Layout
from .plan import Group, Run, Slots, plan
from .settings import Settings
from .staging import Array, DevicePool, HostCopier, Ring

__all__ = ["Settings", "Transfer"]

_INDEX_BYTES = torch.int32.itemsize


class Transfer:
    """Moves KV between memory objects and the paged cache.

    Args:
        layout: The caches.
        chunk: LMCache's chunk size in tokens.
        settings: Sizes.
        backend: The device; default: that of the layout.
        direct: Whether memory objects may be pinned one by one (:mod:`.direct`). Layers of one kind only.

    Attributes:
        largest: Largest group in chunks.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        chunk: int,
        settings: Settings | None = None,
        backend: Backend | None = None,
        direct: bool = False,
    ) -> None:
        settings = settings or Settings()
        self.layout = layout
        self.chunk = chunk
        self.backend = backend or backend_for(layout.device)
        room = settings.staging_bytes // (layout.token_bytes * chunk)
        # Room for at least one chunk in addition to a group: its rows are there before they are joined.
        self.largest = min(settings.largest_group, _power(room - 1))
        joined = min(self.largest, _power(room - self.largest))
        self.kernels = Kernels(layout, self.backend, chunk=chunk, largest=self.largest, joined=joined)
        part_bytes = self.kernels.part_bytes
        self.ring = Ring(self.backend, part_bytes, min(max(2, settings.ring_bytes // part_bytes), self.largest + 2))
        self._indices = Ring(self.backend, self.largest * chunk * _INDEX_BYTES, 4)
        self._copier = HostCopier(settings.threads)
        self._lock = threading.Lock()
        # More than a group, if there is room: the copies of the next one start while this one is scattered.
        spare = min(self.largest, max(0, settings.staging_bytes // part_bytes - 1 - self.largest))
        indices = 4 * self.largest * chunk * _INDEX_BYTES
        self._pool = DevicePool(self.backend, (self.largest + spare) * layout.token_bytes * chunk + indices)
        self._outputs: Event | None = None
        under_way = max(1, (room - joined) // self.largest)
        self.direct = self._make_direct(under_way) if direct and len(layout.sections) == 1 else None

    def _make_direct(self, under_way: int) -> Direct:
        return Direct(
            self.layout,
            self.backend,
            self.kernels,
            ring=self.ring,
            pool=self._pool,
            send_index=self._send_index,
            fill=self._fill,
            unpack=self._unpack,
            largest=self.largest,
            under_way=under_way,
        )

    @property
    def host_copied_bytes(self) -> int:
        """Return the bytes that the host has copied between pinned buffers and memory objects so far."""
        return self._copier.copied_bytes

    def report(self, logger: logging.Logger) -> None:
        """Log what is moved and how, and what will be slow."""
        logger.info(
            "KV caches on %s: %s; up to %d chunks of %d tokens a graph; ring of %d x %.1f MiB",
            self.layout.device,
            self.layout.describe(),
            self.largest,
            self.chunk,
            len(self.ring),
            self.kernels.part_bytes / (1 << 20),
        )
        if self.layout.through_views:
            logger.warning(
                "%d cache tensors can only be written through a view; on HPU such a write may copy the whole cache",
                self.layout.through_views,
            )
        if not self.ring.pinned:
            logger.warning("host memory could not be pinned for the HPU; copies go through the bridge's buffers")

    def warm_up(self, *, resident: bool = False) -> None:
        """Compile every graph of both directions, and allocate.

        Slot 0 is read and written back, by the way of a request, so the caches keep their content.

        Args:
            resident: Also compile the graphs for memory objects that are on the device.
        """
        for chunks in self.kernels.sizes:
            group = Group(chunks, 0, np.zeros(chunks * self.chunk, dtype=np.int64), (), sink=True)
            with self._request():
                self._pool.drop()  # as in store
                if self.direct is not None:
                    self.direct.rewrite(group)
                else:
                    self._rewrite(group)
        if resident:
            self._warm_up_resident()

    def _rewrite(self, group: Group) -> None:
        """Gather a group and scatter it again."""
        index = self._send_index(group)
        parts = []
        outputs = deque(self.kernels.gather(group.chunks, index))
        while outputs:
            output = outputs.popleft()  # each makes room for the part that is copied back
            slot = self.ring.acquire()
            host = slot.tensor(output.numel(), output.dtype)
            self.backend.copy(host.view(output.shape), output)
            self.backend.record().synchronize()
            parts.append(self._pool.take(host.numel(), host.dtype))
            self.backend.copy(parts[-1], host)
            slot.busy(self.backend.record())
        self.kernels.scatter(group.chunks, index, parts)
        self._pool.give(self.backend.record())

    def _warm_up_resident(self) -> None:
        slots = torch.zeros(self.chunk, dtype=torch.int64)
        span = (0, self.chunk)
        tensors = [torch.empty(s.shape(self.chunk), dtype=s.dtype) for s in self.layout.sections]
        self.store([tensors], [span], slots)
        with self._request():
            objects = [[self._broadcast(tensor) for tensor in tensors] for _ in range(self.largest)]
            for chunks in self.kernels.sizes:
                runs = tuple(Run(number, 0, number * self.chunk, self.chunk) for number in range(chunks))
                index = np.zeros(chunks * self.chunk, dtype=np.int64)
                self._load_resident(Group(chunks, len(index), index, runs, sink=False), objects)

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` on the device as LMCache's broadcast makes it: bytes, viewed as a tensor."""
        raw = tensor.view(torch.uint8).view(-1).to(self.backend.device)
        return raw[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    def load(
        self,
        objects: Sequence[Sequence[torch.Tensor]],
        spans: Sequence[tuple[int, int]],
        slots: torch.Tensor,
        *,
        skip: int = 0,
    ) -> int:
        """Write memory objects into the paged cache.

        Args:
            objects: Tensors of each memory object, one a section, ``[kv, layers, tokens, width]``, on the host or
                on the device.
            spans: ``(start, end)`` token positions of each object in the request.
            slots: Slot of every token of the request, one-dimensional integers. Tokens with a slot below 0 are
                not written.
            skip: Tokens before this position are not written: vLLM has their blocks, and may share them.

        Returns:
            Number of tokens written. They are in the cache on return.

        Raises:
            IndexError: A slot outside the caches.
            ValueError: A memory object of another shape or dtype than the layout's.
        """
        rows.check(self.layout.sections, objects, spans)
        numbers = rows.slot_array(slots)
        with self._request():
            moved = 0
            resident = self._resident(objects, spans, numbers, skip)
            for group in self._plan([spans[n] for n in resident], numbers, skip):
                self._load_resident(group, [objects[n] for n in resident])
                moved += group.rows
            rest = [n for n in range(len(objects)) if n not in resident]
            arrays = [rows.host_arrays(objects[n]) for n in rest]
            others = [spans[n] for n in rest]
            if self.direct is not None:
                members = self.direct.members([objects[n] for n in rest], others, numbers, skip)
                return moved + self.direct.load(members, arrays)
            for group in self._plan(others, numbers, skip):
                self._load_group(group, arrays)
                moved += group.rows
        return moved

    def store(
        self,
        objects: Sequence[Sequence[torch.Tensor]],
        spans: Sequence[tuple[int, int]],
        slots: torch.Tensor,
    ) -> int:
        """Read the paged cache into memory objects.

        Args:
            objects: As in :meth:`load`, on the host.
            spans: As in :meth:`load`.
            slots: As in :meth:`load`. Rows of tokens with a slot below 0 are left as they are.

        Returns:
            Number of tokens read. The memory objects are complete on return.

        Raises:
            IndexError: A slot outside the caches.
            ValueError: A memory object of another shape or dtype than the layout's, or not on the host.
        """
        rows.check(self.layout.sections, objects, spans)
        if any(tensor.device.type != "cpu" for tensors in objects for tensor in tensors):
            raise ValueError("memory objects to store into must be on the host")
        numbers = rows.slot_array(slots)
        with self._request():
            # What a load has left, for the next one, and what this gathers are not held at the same time.
            self._pool.drop()
            arrays = [rows.host_arrays(tensors) for tensors in objects]
            if self.direct is not None:
                members = self.direct.members(objects, spans, numbers, 0)
                return self.direct.store(members, arrays)
            moved = 0
            for group in self._plan(spans, numbers, 0):
                self._store_group(group, arrays)
                moved += group.rows
        return moved

    def _plan(self, spans: Sequence[tuple[int, int]], slots: Slots, skip: int) -> list[Group]:
        return plan(
            spans,
            slots,
            chunk=self.chunk,
            largest=self.largest,
            capacity=self.layout.slots,
            pad=self.layout.pad,
            skip=skip,
        )

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Run one request at a time; synchronise and free all buffers at the end, also after an error."""
        with self._lock, torch.inference_mode():
            try:
                yield
                # Each buffer waits for its own event, so buffers are unpacked while later copies still run.
                self.ring.drain()
            finally:
                self.backend.synchronize()
                self._outputs = None
                self._pool.settled()
                self._indices.reset()
                if self.direct is not None:
                    self.direct.settled()
                self.ring.reset()

    def _load_group(self, group: Group, arrays: Sequence[Sequence[Array]]) -> None:
        index = self._send_index(group)
        parts = []
        for part in self.kernels.parts(group.chunks):
            slot = self.ring.acquire()
            host = slot.tensor(part.elements(len(group.index)), part.dtype)
            self._fill(rows.part_rows(host, part), part, group, arrays)
            parts.append(self._pool.take(host.numel(), host.dtype))
            self.backend.copy(parts[-1], host)
            slot.busy(self.backend.record())
        self.kernels.scatter(group.chunks, index, parts)
        self._pool.give(self.backend.record())

    def _load_resident(self, group: Group, objects: Sequence[Sequence[torch.Tensor]]) -> None:
        index = self._send_index(group)
        flat = [
            rows.bits(objects[run.obj][number], section).view(len(section.planes), self.chunk, section.width)
            for number, section in enumerate(self.layout.sections)
            for run in group.runs
        ]
        self.kernels.scatter_objects(group.chunks, index, flat)
        self._pool.give(self.backend.record())

    def _store_group(self, group: Group, arrays: Sequence[Sequence[Array]]) -> None:
        # The outputs of one group are on the device at a time, and within its graph the rows before they are joined.
        if self._outputs is not None:
            self._outputs.synchronize()
        index = self._send_index(group)
        outputs = self.kernels.gather(group.chunks, index)
        self._pool.give(self.backend.record())
        for part, output in zip(self.kernels.parts(group.chunks), outputs, strict=True):
            slot = self.ring.acquire()
            host = slot.tensor(output.numel(), part.dtype)
            self.backend.copy(host.view(output.shape), output)
            self._outputs = self.backend.record()
            slot.busy(self._outputs, partial(self._unpack, rows.part_rows(host, part), part, group, arrays))

    def _send_index(self, group: Group) -> torch.Tensor:
        """The index of a group on the device, int32: int64 would be converted on the host, past the pinned buffer.

        Recording the event cuts the lazy graph (bridge: backend/habana_device/HPUEvent.cpp), so what vLLM has left
        pending does not become part of the graph that follows.
        """
        slot = self._indices.acquire()
        host = slot.tensor(len(group.index), torch.int32)
        np.copyto(host.numpy(), group.index, casting="same_kind")
        target = self._pool.take(host.numel(), host.dtype)
        self.backend.copy(target, host)
        slot.busy(self.backend.record())
        return target

    def _fill(self, host: Array, part: Part, group: Group, arrays: Sequence[Sequence[Array]]) -> None:
        """Copy memory objects to a part of a group, and its padding rows."""
        self._copier.copy(rows.filled(host, part, group, arrays))

    def _unpack(self, host: Array, part: Part, group: Group, arrays: Sequence[Sequence[Array]]) -> None:
        """Copy a part of a group to memory objects."""
        self._copier.copy(rows.unpacked(host, part, group, arrays))

    def _resident(
        self, objects: Sequence[Sequence[torch.Tensor]], spans: Sequence[tuple[int, int]], slots: Slots, skip: int
    ) -> list[int]:
        """Objects that are on the device and whole chunks, every token of which is to be written."""
        return [
            number
            for number, (tensors, (start, end)) in enumerate(zip(objects, spans, strict=True))
            if tensors[0].device.type != "cpu"
            and end - start == self.chunk
            and start >= skip
            and bool((slots[start:end] >= 0).all())
        ]


def _power(number: int) -> int:
    """Return the largest power of two that is not above ``number``; at least 1."""
    return 1 << (max(1, number).bit_length() - 1)
