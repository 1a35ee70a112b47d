# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Chunks of multiprocess mode, between a worker's paged cache and the memory of LMCache's server.

LMCache's own transfer copies plane by plane into the server's memory and, back, writes with an index whose length is
the prompt's, so that each length compiles. Here the chunks are memory objects like any others, and move by the same
kernels, through the pinned ring.

They cannot be copied to directly (:mod:`.direct`): the memory is the server's, a worker can map it but not pin it. The
bridge takes for pinned only what it has allocated itself, and has no call to register other memory
(backend/synapse_helpers/host_memory.cpp; its only synHostMap of memory of others is for constants of a graph).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..logging import init_logger
from .device import DEVICE, backend_for, is_available
from .layout import first_tensor, normalise, same_caches
from .settings import Settings
from .transfer import Transfer
from .waiting import waiting_for_host_copies

if TYPE_CHECKING:
    from .layout import Layout, Section
    from .plan import Slots

__all__ = ["ServerChunks", "forget", "gathering", "scattering", "server_chunks"]

logger = init_logger(__name__)

_lock = threading.Lock()
#: One for each worker of the process; vLLM has one.
_workers: list[ServerChunks] = []


@dataclass(frozen=True, eq=False)
class ServerChunks:
    """What moves the chunks of one worker.

    Attributes:
        caches: The caches, in the order of the layers.
        block: Tokens of a block.
        blocks_in_chunk: Blocks of a chunk.
        transfer: Moves them; None where LMCache's chunks are not laid out like memory objects.
    """

    caches: list[Any]
    block: int
    blocks_in_chunk: int
    transfer: Transfer | None

    def serves(self, caches: Sequence[Any], blocks_in_chunk: int) -> bool:
        """Return whether it was made for these very caches, which are compared by identity, and for such chunks."""
        return self.blocks_in_chunk == blocks_in_chunk and same_caches(self.caches, list(caches))

    def store(self, blocks: Sequence[int], numbers: Sequence[int], out: Sequence[Any] | None) -> list[Any]:
        """Read chunks from the paged cache; complete on return.

        Args:
            blocks: Blocks of the prompt.
            numbers: Which of its chunks to read.
            out: Memory for each of them, or None to allocate it.

        Returns:
            The chunks, ``[kv, layers, tokens, width]``, or ``[layers, tokens, width]`` where kv is 1.

        Raises:
            ValueError: There is less memory than chunks, or it is of another shape than the layers need.
            IndexError: A block outside the caches.
        """
        assert self.transfer is not None
        (section,) = self.transfer.layout.sections
        chunks = [self._empty(section) for _ in numbers] if out is None else list(out[: len(numbers)])
        if len(chunks) < len(numbers):
            raise ValueError(f"memory for {len(chunks)} of {len(numbers)} chunks")
        wanted = [b for n in numbers for b in blocks[n * self.blocks_in_chunk : (n + 1) * self.blocks_in_chunk]]
        self.transfer.store(_objects(chunks), self._spans(len(chunks)), self._slots(wanted))
        return chunks

    def load(self, blocks: Sequence[int], chunks: Sequence[Any], skip: int) -> None:
        """Write chunks into the paged cache; done on return.

        Args:
            blocks: Blocks of the prompt; those behind the last chunk are not written.
            chunks: From the first one of the prompt on.
            skip: Tokens before this position are not written: vLLM has their blocks, and may share them.

        Raises:
            ValueError: There are fewer blocks than chunks need, or a chunk is of another shape than the layers need.
            IndexError: A block outside the caches.
        """
        assert self.transfer is not None
        needed = len(chunks) * self.blocks_in_chunk
        if len(blocks) < needed:
            raise ValueError(f"{len(blocks)} blocks for {len(chunks)} chunks of {self.blocks_in_chunk} blocks")
        self.transfer.load(_objects(chunks), self._spans(len(chunks)), self._slots(blocks[:needed]), skip=skip)

    def _empty(self, section: Section) -> torch.Tensor:
        chunk = torch.empty(section.shape(self.block * self.blocks_in_chunk), dtype=section.dtype)
        return chunk[0] if section.kv == 1 else chunk

    def _spans(self, chunks: int) -> list[tuple[int, int]]:
        tokens = self.block * self.blocks_in_chunk
        return [(n * tokens, (n + 1) * tokens) for n in range(chunks)]

    def _slots(self, blocks: Sequence[int]) -> torch.Tensor:
        first: Slots = np.asarray(blocks, dtype=np.int64)[:, None] * self.block
        return torch.from_numpy((first + np.arange(self.block)).reshape(-1))


def server_chunks(kv_caches: dict[str, Any], blocks_in_chunk: int) -> ServerChunks:
    """Return what moves the chunks of these caches; the first time, its graphs are compiled.

    A server that has come back is registered with anew, with the same caches.

    Args:
        kv_caches: The caches by layer, as vLLM registers them.
        blocks_in_chunk: Blocks of a chunk.

    Raises:
        LayoutError: These caches cannot be served.
    """
    caches = list(kv_caches.values())
    with _lock:
        for worker in _workers:
            if worker.serves(caches, blocks_in_chunk):
                return worker
        worker = _make(caches, blocks_in_chunk)
        _workers.append(worker)
        return worker


def forget(worker: ServerChunks) -> None:
    """Let go of a worker's caches, and of the memory that was pinned for them."""
    with _lock:
        _workers[:] = [other for other in _workers if other is not worker]


def gathering(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return LMCache's ``gather_paged_kv_to_cpu`` by the kernels, on HPU; itself elsewhere."""
    if not is_available():
        return original

    @functools.wraps(original)
    def gather(
        kv_caches: dict[str, Any], block_ids: Sequence[int], blocks_in_chunk: int, *args: Any, **kwargs: Any
    ) -> Any:
        worker = server_chunks(kv_caches, blocks_in_chunk)
        if worker.transfer is None:
            return waiting_for_host_copies(original)(kv_caches, block_ids, blocks_in_chunk, *args, **kwargs)
        numbers = kwargs.get("chunk_indices")
        if numbers is None:
            numbers = range(len(block_ids) // blocks_in_chunk)
        return worker.store(block_ids, list(numbers), kwargs.get("out"))

    return gather


def scattering(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return LMCache's ``scatter_cpu_to_paged_kv`` by the kernels, on HPU; itself elsewhere."""
    if not is_available():
        return original

    @functools.wraps(original)
    def scatter(
        kv_caches: dict[str, Any],
        block_ids: Sequence[int],
        chunks: Sequence[Any],
        blocks_in_chunk: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        worker = server_chunks(kv_caches, blocks_in_chunk)
        if worker.transfer is None:
            original(kv_caches, block_ids, chunks, blocks_in_chunk, *args, **kwargs)
        else:
            worker.load(block_ids, chunks, int(kwargs.get("skip_first_n_tokens") or 0))

    return scatter


def _make(caches: list[Any], blocks_in_chunk: int) -> ServerChunks:
    first = first_tensor(caches)
    backend = backend_for(torch.device(DEVICE) if first is None else first.device)
    layout = normalise(caches, bitcast=backend.bitcast)
    assert first is not None, "normalise refuses caches without a tensor"
    block = int(first.shape[1])
    reason = _not_objects(layout, first)
    if reason is not None:
        logger.info("KV caches: %s; %s, so LMCache's own transfer moves the chunks", layout.describe(), reason)
        return ServerChunks(caches, block, blocks_in_chunk, None)
    settings = Settings.from_environment()
    transfer = Transfer(layout, chunk=block * blocks_in_chunk, settings=settings, backend=backend)
    transfer.report(logger)
    if settings.warm_up:
        transfer.warm_up()
    return ServerChunks(caches, block, blocks_in_chunk, transfer)


def _not_objects(layout: Layout, first: torch.Tensor) -> str | None:
    """Return why LMCache's chunks of these caches are not laid out like memory objects, or None where they are."""
    if len(layout.sections) != 1:
        return "layers of several kinds"
    if layout.shared:
        return "layers that use the caches of others, which a chunk holds once more"
    if first.dim() != (3 if layout.sections[0].kv == 1 else 4):
        return "caches without a dimension of blocks"
    return None


def _objects(chunks: Sequence[Any]) -> list[list[torch.Tensor]]:
    """Return chunks as memory objects: LMCache leaves out a first dimension of 1."""
    return [[chunk if chunk.dim() == 4 else chunk.unsqueeze(0)] for chunk in chunks]
