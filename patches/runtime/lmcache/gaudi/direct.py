# SPDX-License-Identifier: Apache-2.0
"""Copies straight into and out of memory objects that are pinned one by one (:mod:`.slabs`).

A group of chunks is one graph, as in :mod:`.kernels`, and each chunk one copy: gather joins the rows of a chunk to
the object's layout on the device, scatter joins them by plane again and writes each plane once. What is no whole
object in a slab -- a partial chunk, tokens without a slot, a prefix that vLLM has, memory of another allocator -- is
a *member* of a group like the others, but goes through a buffer of the ring, one chunk in size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from .kernels import Part
from .layout import host_dtype
from .plan import Group, Run, Slots, group_sizes, plan
from .slabs import Slab, hold, release

if TYPE_CHECKING:
    from .device import Backend, Event
    from .kernels import Kernels
    from .layout import Layout
    from .staging import Array, DevicePool, Ring

__all__ = ["Direct", "Member"]

Rows = Callable[["Array", Part, Group, Sequence[Sequence["Array"]]], None]


@dataclass(frozen=True)
class Member:
    """The rows of one memory object in a group.

    Attributes:
        group: These rows as a group of one chunk: slots, padding, and where they lie in the object.
        whole: The object itself, one-dimensional, where it can be copied to directly; None: by the ring.
    """

    group: Group
    whole: torch.Tensor | None


class Direct:
    """Moves requests of one kind of layer by groups of members.

    Args:
        layout: The caches, of one section.
        backend: The device.
        kernels: Gather and scatter.
        ring: Pinned buffers, of at least one chunk.
        pool: Device buffers.
        send_index: Copies the index of a group to the device.
        fill: Copies rows of memory objects into a buffer of the ring.
        unpack: Copies them back.
        largest: Largest group in chunks.
        under_way: Most groups of a store whose outputs are on the device at a time.
    """

    def __init__(
        self,
        layout: Layout,
        backend: Backend,
        kernels: Kernels,
        *,
        ring: Ring,
        pool: DevicePool,
        send_index: Callable[[Group], torch.Tensor],
        fill: Rows,
        unpack: Rows,
        largest: int,
        under_way: int,
    ) -> None:
        (section,) = layout.sections
        planes = len(section.planes)
        self._layout, self._backend, self._kernels = layout, backend, kernels
        self._ring, self._pool = ring, pool
        self._send_index, self._fill, self._unpack = send_index, fill, unpack
        self._largest, self._under_way = largest, under_way
        self._part = Part(0, 0, planes, section.width, section.planes[0].tensor.dtype)
        self._shape = (planes, kernels.chunk, section.width)
        self._held: list[Slab] = []
        self._outputs: deque[Event] = deque()

    def members(
        self,
        objects: Sequence[Sequence[torch.Tensor]],
        spans: Sequence[tuple[int, int]],
        slots: Slots,
        skip: int,
    ) -> list[Member]:
        """Return a member for each object of which rows are to move; holds the slabs of those that are copied directly.

        Args:
            objects: One tensor each, on the host, ``[kv, layers, tokens, width]``.
            spans: As in :func:`.plan.plan`.
            slots: As in :func:`.plan.plan`.
            skip: As in :func:`.plan.plan`.

        Raises:
            IndexError: As :func:`.plan.plan`.
        """
        members = []
        chunk = self._kernels.chunk
        for number, ((tensor,), span) in enumerate(zip(objects, spans, strict=True)):
            groups = plan(
                [span], slots, chunk=chunk, largest=1, capacity=self._layout.slots, pad=self._layout.pad, skip=skip
            )
            for group in groups:
                runs = tuple(Run(number, run.start, run.row, run.count) for run in group.runs)
                own = Group(group.chunks, group.rows, group.index, runs, group.sink)
                members.append(Member(own, self._whole(tensor, own)))
        return members

    def load(self, members: Sequence[Member], arrays: Sequence[Sequence[Array]]) -> int:
        """Copy the members to the device and scatter them; submitted, not waited for.

        Returns:
            Number of tokens.
        """
        for batch in self._batches(members):
            index = self._send_index(_joined(batch))
            flat = []
            for member in batch:
                target = self._pool.take(self._part.elements(self._kernels.chunk), self._part.dtype)
                if member.whole is not None:
                    self._backend.copy(target, member.whole)
                else:
                    slot = self._ring.acquire()
                    host = slot.tensor(target.numel(), target.dtype)
                    self._fill(self._rows(host), self._part, member.group, arrays)
                    self._backend.copy(target, host)
                    slot.busy(self._backend.record())
                flat.append(target.view(self._shape))
            self._kernels.scatter_objects(len(batch), index, flat)
            self._pool.give(self._backend.record())
        return sum(member.group.rows for member in members)

    def store(self, members: Sequence[Member], arrays: Sequence[Sequence[Array]]) -> int:
        """Gather the members and copy them to the host; submitted, not waited for.

        Returns:
            Number of tokens.
        """
        for batch in self._batches(members):
            while len(self._outputs) >= self._under_way:
                self._outputs.popleft().synchronize()
            self._store(batch, arrays)
        return sum(member.group.rows for member in members)

    def settled(self) -> None:
        """The device has been waited for: no object is under way any more."""
        self._outputs.clear()
        while self._held:
            release(self._held.pop())

    def _store(self, batch: Sequence[Member], arrays: Sequence[Sequence[Array]]) -> None:
        # A function of its own: its outputs are dropped before the next group's are made.
        index = self._send_index(_joined(batch))
        outputs = self._kernels.gather_objects(len(batch), index)
        self._pool.give(self._backend.record())
        for member, output in zip(batch, outputs, strict=True):
            if member.whole is not None:
                self._backend.copy(member.whole, output.view(-1))
                continue
            slot = self._ring.acquire()
            host = slot.tensor(output.numel(), output.dtype)
            self._backend.copy(host, output.view(-1))
            job = partial(self._unpack, self._rows(host), self._part, member.group, arrays)
            slot.busy(self._backend.record(), job)
        self._outputs.append(self._backend.record())

    def rewrite(self, group: Group) -> None:
        """Gather a group and scatter it again, which compiles both graphs."""
        index = self._send_index(group)
        flat = []
        outputs = deque(self._kernels.gather_objects(group.chunks, index))
        while outputs:
            output = outputs.popleft()  # each makes room for the object that is copied back
            slot = self._ring.acquire()
            host = slot.tensor(output.numel(), output.dtype)
            self._backend.copy(host, output.view(-1))
            self._backend.record().synchronize()
            flat.append(self._pool.take(host.numel(), host.dtype))
            self._backend.copy(flat[-1], host)
            slot.busy(self._backend.record())
        self._kernels.scatter_objects(group.chunks, index, [one.view(self._shape) for one in flat])
        self._pool.give(self._backend.record())

    def _whole(self, tensor: torch.Tensor, group: Group) -> torch.Tensor | None:
        """Return the object as the device copies it, where all of it moves and it lies in a slab; the slab is held."""
        (first, *others) = group.runs
        if others or (first.start, first.row, first.count) != (0, 0, self._kernels.chunk):
            return None
        if tensor.shape[2] != first.count:
            return None
        slab = hold(tensor)
        if slab is None:
            return None
        self._held.append(slab)
        flat = tensor.view(-1)
        return flat if flat.dtype == self._part.dtype else flat.view(self._part.dtype)

    def _rows(self, host: torch.Tensor) -> Array:
        """Return a buffer of the ring as integers ``[planes, rows, width]``."""
        array: Array = host.view(host_dtype(host.dtype)).numpy()
        return array.reshape(self._shape)

    def _batches(self, members: Sequence[Member]) -> Iterator[Sequence[Member]]:
        first = 0
        for size in group_sizes(len(members), self._largest):
            yield members[first : first + size]
            first += size


def _joined(batch: Sequence[Member]) -> Group:
    """Return the index of a group of members."""
    index = np.concatenate([member.group.index for member in batch])
    return Group(len(batch), sum(member.group.rows for member in batch), index, (), sink=True)
