"""LMCache's own transfer of multiprocess mode, between the caches and a server's shared memory."""

from __future__ import annotations

import contextlib
from multiprocessing import resource_tracker, shared_memory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe

_LAYERS, _BLOCKS, _BLOCK, _HEADS, _SIZE = 3, 24, 16, 2, 32
_BLOCKS_IN_CHUNK, _CHUNKS = 4, 3
_SHAPE = [2, _LAYERS, _BLOCKS_IN_CHUNK * _BLOCK, _HEADS * _SIZE]
_CHUNK_BYTES = 2 * 2 * _LAYERS * _BLOCKS_IN_CHUNK * _BLOCK * _HEADS * _SIZE
_FROM = list(range(2, 2 + _BLOCKS_IN_CHUNK * _CHUNKS))
_TO = list(range(11, 11 + _BLOCKS_IN_CHUNK * _CHUNKS))


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


class _Server:
    """Slots of a segment for one prompt's chunks."""

    def __init__(self, segment: shared_memory.SharedMemory) -> None:
        self.segment = segment
        self.slots: list[dict[str, Any]] = [
            {"offset": 4096 + n * _CHUNK_BYTES, "length": _CHUNK_BYTES, "shape": _SHAPE, "dtype": "bfloat16"}
            for n in range(_CHUNKS)
        ]
        self.found = self.slots

    def register_kv_cache_engine_driven_context(self, payload: Foreign) -> _Reply:
        """Name the segment."""
        kind = _probe.load("lmcache.v1.multiprocess.custom_types").RegisterEngineDrivenContextResponse
        return _Reply(kind(self.segment.name, self.segment.size))

    def prepare_store(self, *arguments: Foreign) -> _Reply:
        """Give room for all chunks."""
        context = {"slots": self.slots, "chunk_indices": list(range(_CHUNKS))}
        return _Reply(SimpleNamespace(success=True, context=context))

    def commit_store(self, *arguments: Foreign) -> _Reply:
        """Take what was written."""
        return _Reply(True)

    def prepare_retrieve(self, *arguments: Foreign) -> _Reply:
        """Say where the chunks are."""
        return _Reply(SimpleNamespace(success=True, context={"slots": self.found}, data=b""))

    def commit_retrieve(self, *arguments: Foreign) -> _Reply:
        """Let go of them."""
        return _Reply(True)


def check_transfer(probe: _probe.Probe) -> None:
    """Store into the memory of a stand-in for the server, and load from it."""
    segment = shared_memory.SharedMemory(create=True, size=1 << 20)
    try:
        _transfer(probe, segment)
    finally:
        with contextlib.suppress(BufferError):  # a view that LMCache still has
            segment.close()
        segment.unlink()


def _transfer(probe: _probe.Probe, segment: shared_memory.SharedMemory) -> None:
    """Blocks go to the segment and from it to others, in the calling thread; fewer than asked for are a failed load."""
    torch, memory = _probe.load("torch"), segment.buf
    assert memory is not None
    transfer = _probe.load("lmcache.v1.multiprocess.transfer_context.worker_transfer")
    probe.check(not transfer._supports_async_primitives(), "transfers run in a thread of their own: one graph for all")
    shape = (_BLOCKS, _BLOCK, _HEADS, _SIZE)
    truth = [[torch.randn(shape).to(torch.bfloat16) for _ in range(2)] for _ in range(_LAYERS)]
    caches = {f"layer.{n}": tuple(side.to("hpu") for side in truth[n]) for n in range(_LAYERS)}
    server = _Server(segment)
    worker = _probe.load("lmcache.v1.multiprocess.transfer_context").EngineDrivenTransferContext(7, server)
    worker.register(caches, "model", 1, _BLOCKS_IN_CHUNK, 5.0)
    resource_tracker.register(f"/{segment.name}", "shared_memory")  # LMCache takes it for another process's
    stored = worker.submit_store("request", "key", caches, [_FROM], None, _BLOCKS_IN_CHUNK).result()
    probe.check(stored is True, f"a store gave {stored}")
    for n, slot in enumerate(server.slots):
        raw = bytearray(memory[slot["offset"] : slot["offset"] + _CHUNK_BYTES])
        held = torch.frombuffer(raw, dtype=torch.bfloat16).view(_SHAPE)
        blocks = _FROM[n * _BLOCKS_IN_CHUNK : (n + 1) * _BLOCKS_IN_CHUNK]
        right = all(
            torch.equal(held[side, layer], truth[layer][side][blocks].reshape(_SHAPE[2:]))
            for layer in range(_LAYERS)
            for side in range(2)
        )
        probe.check(right, f"chunk {n} of the server's memory is not what the blocks held when it was stored")
    server.found = server.slots[:-1]
    loaded = worker.submit_retrieve("request", "key", caches, [_TO], None, _BLOCKS_IN_CHUNK).result()
    probe.check(loaded is False, f"an answer that is a chunk short counts as loaded: {loaded}")
    server.found = server.slots
    loaded = worker.submit_retrieve("request", "key", caches, [_TO], None, _BLOCKS_IN_CHUNK).result()
    probe.check(loaded is True, f"a load gave {loaded}")
    for layer in range(_LAYERS):
        for side in range(2):
            expected = truth[layer][side].clone()
            expected[_TO] = truth[layer][side][_FROM]
            now = caches[f"layer.{layer}"][side].cpu()
            probe.check(torch.equal(now, expected), f"layer {layer}, {'KV'[side]}: blocks are not what was stored")
    worker.close()
