"""Multiprocess mode over a server's shared memory: no KV in a message, none of it pinned for the device. A script.

It uses LMCache's own worker side of the transfer, with a stand-in for the server that hands out slots of a segment.
"""

from __future__ import annotations

import inspect
import logging
import sys
from multiprocessing import resource_tracker, shared_memory
from types import SimpleNamespace
from typing import Any

import torch
from lmcache.gaudi.pinning import is_pinned
from lmcache.v1.multiprocess.custom_types import RegisterEngineDrivenContextResponse
from lmcache.v1.multiprocess.transfer_context import EngineDrivenContextShm, EngineDrivenTransferContext

LAYERS, BLOCKS, BLOCK, HEADS, SIZE = 3, 24, 16, 2, 32
BLOCKS_IN_CHUNK, CHUNKS = 4, 3
SHAPE = [2, LAYERS, BLOCKS_IN_CHUNK * BLOCK, HEADS * SIZE]
CHUNK_BYTES = 2 * 2 * LAYERS * BLOCKS_IN_CHUNK * BLOCK * HEADS * SIZE
FROM, TO = list(range(2, 2 + BLOCKS_IN_CHUNK * CHUNKS)), list(range(11, 11 + BLOCKS_IN_CHUNK * CHUNKS))


class Reply:
    """The server's answer."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        return self._value


class Server:
    """Slots for ``CHUNKS`` chunks of one prompt, and everything that was sent."""

    def __init__(self, segment: shared_memory.SharedMemory) -> None:
        self.segment, self.sent = segment, []  # type: ignore[var-annotated]
        self.slots = [
            {"offset": 4096 + n * CHUNK_BYTES, "length": CHUNK_BYTES, "shape": SHAPE, "dtype": "bfloat16"}
            for n in range(CHUNKS)
        ]

    def register_kv_cache_engine_driven_context(self, payload: Any) -> Reply:
        return Reply(RegisterEngineDrivenContextResponse(self.segment.name, self.segment.size))

    def prepare_store(self, *arguments: Any) -> Reply:
        context = {"slots": self.slots, "chunk_indices": list(range(CHUNKS))}
        return Reply(SimpleNamespace(success=True, context=context))

    def commit_store(self, key: Any, instance: int, data: bytes) -> Reply:
        self.sent.append(data)
        return Reply(True)

    def prepare_retrieve(self, *arguments: Any) -> Reply:
        return Reply(SimpleNamespace(success=True, context={"slots": self.slots}, data=b""))

    def commit_retrieve(self, *arguments: Any) -> Reply:
        return Reply(True)


def cost(counters: Any) -> dict[str, int]:
    snapshot = counters.snapshot()
    counters.reset()
    return {name: int(snapshot[name]) for name in ("bounce_bytes", "d2h_bytes", "h2d_bytes")}


def main() -> None:
    segment = shared_memory.SharedMemory(create=True, size=1 << 20)
    try:
        exercise(segment)
    finally:
        segment.unlink()
    print("passed")
    sys.stdout.flush()


def exercise(segment: shared_memory.SharedMemory) -> None:
    counters: Any = sys.modules["hpu_emulator"].current().counters
    shape = (BLOCKS, BLOCK, HEADS, SIZE)
    truth = [[torch.randn(shape).to(torch.bfloat16) for _ in range(2)] for _ in range(LAYERS)]
    caches: dict[str, Any] = {f"layer.{n}": tuple(side.to("hpu") for side in truth[n]) for n in range(LAYERS)}
    server = Server(segment)
    make: Any = EngineDrivenTransferContext
    own: tuple[int, ...] = ()
    if len(inspect.signature(make.__init__).parameters) > 1:
        worker = make(7, server)
        worker.register(caches, "model", 1, BLOCKS_IN_CHUNK, 5.0)
    else:  # in 0.5.5, the instance and the client come with each call
        worker, own = make(), (7,)
        worker.register(*own, caches, "model", 1, BLOCKS_IN_CHUNK, server, 5.0)
    context = worker.engine_driven_context
    resource_tracker.register(f"/{segment.name}", "shared_memory")  # LMCache treats the segment as another process's
    assert isinstance(context, EngineDrivenContextShm), type(context)
    assert not context._pinned
    (view, *_), _ = context.prepare_store("key", 7)
    assert not is_pinned(view), "the bridge knows its own allocations alone"

    counters.reset()
    assert worker.submit_store("request", "key", *own, caches, [FROM], None, BLOCKS_IN_CHUNK).result() is True
    store = cost(counters)
    assert server.sent == [b""], "KV was pickled"
    for n, slot in enumerate(server.slots):
        raw = bytes(segment.buf[slot["offset"] : slot["offset"] + CHUNK_BYTES])
        stored = torch.frombuffer(bytearray(raw), dtype=torch.bfloat16).view(SHAPE)
        blocks = FROM[n * BLOCKS_IN_CHUNK : (n + 1) * BLOCKS_IN_CHUNK]
        for layer in range(LAYERS):
            for side in range(2):
                assert torch.equal(stored[side, layer], truth[layer][side][blocks].reshape(SHAPE[2:]))

    assert worker.submit_retrieve("request", "key", *own, caches, [TO], None, BLOCKS_IN_CHUNK).result() is True
    load = cost(counters)
    for layer in range(LAYERS):
        for side in range(2):
            loaded = caches[f"layer.{layer}"][side].cpu()
            assert torch.equal(loaded[TO], truth[layer][side][FROM]), (layer, side)
            rest = [block for block in range(BLOCKS) if block not in TO]
            assert torch.equal(loaded[rest], truth[layer][side][rest]), (layer, side)
    # The bridge makes an extra copy of each byte, since the memory is not pinned.
    total = CHUNKS * CHUNK_BYTES
    assert store["d2h_bytes"] == total and load["h2d_bytes"] >= total, (store, load)
    for counts in (store, load):  # including the indices of LMCache's own kernels
        assert counts["bounce_bytes"] == counts["d2h_bytes"] + counts["h2d_bytes"], counts
    worker.close()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
