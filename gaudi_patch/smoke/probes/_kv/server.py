"""A stand-in for the server of LMCache's multiprocess mode, with or without shared memory, and the worker's side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import resource_tracker, shared_memory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe

    from _kv import lmcache as kv_lmcache

_FIRST = 4096  # the offset of the first slot: a page behind the start of the memory
_INSTANCE, _SECONDS = 7, 60.0
_KEY = "key"  # of the only prompt


class _Reply:
    """What the server has answered."""

    def __init__(self, value: Foreign) -> None:
        self._value = value

    def wait(self, timeout: float | None = None) -> bool:
        """It is there."""
        return True

    def result(self, timeout: float | None = None) -> Foreign:
        """Return it."""
        return self._value


class Server:
    """Slots for the chunks of one prompt.

    segment: the shared memory with the slots; None: a server without, which is sent the chunks themselves.
    shape: of a chunk. missing: the numbers of the chunks that a store is given room for. found: how many a load is told
    of.
    sent: what came with each store beside the slots: KV, if it does not go through shared memory.
    """

    def __init__(
        self, segment: shared_memory.SharedMemory | None, shape: Sequence[int], chunk_bytes: int, chunks: int
    ) -> None:
        self.segment, self.found = segment, chunks
        self.missing: Sequence[int] = range(chunks)
        self.sent: list[bytes] = []
        self._shape, self._chunk_bytes = list(shape), chunk_bytes

    def slots(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Return where these chunks are, in LMCache's form."""
        return [
            {"offset": _FIRST + n * self._chunk_bytes, "length": self._chunk_bytes, "shape": self._shape}
            | {"dtype": "bfloat16"}
            for n in numbers
        ]

    def register_kv_cache_engine_driven_context(self, payload: Foreign) -> _Reply:
        """Name the segment."""
        kind = _probe.load("lmcache.v1.multiprocess.custom_types").RegisterEngineDrivenContextResponse
        return _Reply(kind("", 0) if self.segment is None else kind(self.segment.name, self.segment.size))

    def prepare_store(self, *arguments: Foreign) -> _Reply:
        """Give room for what is missing."""
        context = {"slots": self.slots(self.missing), "chunk_indices": list(self.missing)}
        return _Reply(SimpleNamespace(success=True, context=context if self.segment is not None else {}))

    def commit_store(self, key: Foreign, instance: int, data: bytes) -> _Reply:
        """Take what was written, or sent."""
        self.sent.append(data)
        return _Reply(True)

    def prepare_retrieve(self, *arguments: Foreign) -> _Reply:
        """Say where the chunks are, or send them."""
        if self.segment is None:
            return _Reply(SimpleNamespace(success=True, context={}, data=self.sent[-1]))
        return _Reply(SimpleNamespace(success=True, context={"slots": self.slots(range(self.found))}, data=b""))

    def commit_retrieve(self, *arguments: Foreign) -> _Reply:
        """Let go of them."""
        return _Reply(True)


class Worker:
    """LMCache's own worker side, as it makes it for this device, over one set of caches.

    transfer: LMCache's transfer context.
    """

    def __init__(self, server: Server, caches: dict[str, Foreign], blocks_in_chunk: int) -> None:
        module = _probe.load("lmcache.v1.multiprocess.transfer_context.worker_transfer")
        self._caches, self._blocks = caches, blocks_in_chunk
        self._own: tuple[int, ...] = ()
        if kv_lmcache.release() >= (0, 5, 6):
            self.transfer = module._build_engine_driven_context(_INSTANCE, server)
            self.transfer.register(caches, "model", 1, blocks_in_chunk, _SECONDS)
        else:  # instance and server come with each call
            self.transfer, self._own = module._build_engine_driven_context(), (_INSTANCE,)
            self.transfer.register(_INSTANCE, caches, "model", 1, blocks_in_chunk, server, _SECONDS)
        if server.segment is not None:  # LMCache takes it for another process's, and the tracker forgets it
            resource_tracker.register(f"/{server.segment.name}", "shared_memory")

    def store(self, blocks: Sequence[int]) -> bool:
        """Store these blocks as one prompt; done on return."""
        event = self.transfer.create_recorded_event()
        given = (*self._own, self._caches, [list(blocks)], event, self._blocks)
        done = self.transfer.submit_store("request", _KEY, *given)
        return bool(done.result(timeout=_SECONDS))

    def load(self, blocks: Sequence[int], skip: int = 0) -> bool:
        """Load the prompt into these blocks, but for the first ``skip`` tokens; done on return."""
        event = self.transfer.create_recorded_event()
        given = (*self._own, self._caches, [list(blocks)], event, self._blocks, skip)
        done = self.transfer.submit_retrieve("request", _KEY, *given)
        return bool(done.result(timeout=_SECONDS))

    def close(self) -> None:
        """Let go of the server's memory."""
        self.transfer.close()


def segment_bytes(chunk_bytes: int, chunks: int) -> int:
    """Return the size of a segment for so many chunks."""
    return _FIRST + chunks * chunk_bytes


@contextlib.contextmanager
def segment(size: int) -> Iterator[shared_memory.SharedMemory]:
    """Shared memory of at least ``size`` bytes, removed at the end, or before by ``unlink``."""
    made = shared_memory.SharedMemory(create=True, size=size)
    try:
        yield made
    finally:
        with contextlib.suppress(BufferError):  # a view that LMCache still has
            made.close()
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
