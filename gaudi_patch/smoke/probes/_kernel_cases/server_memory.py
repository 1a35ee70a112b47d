"""LMCache's own transfer of multiprocess mode, between the caches and a server's shared memory."""

from __future__ import annotations

from multiprocessing import shared_memory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import server as kv_server
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe
    from _kv import server as kv_server

_LAYERS, _BLOCKS, _BLOCK, _HEADS, _SIZE = 3, 24, 16, 2, 32
_BLOCKS_IN_CHUNK, _CHUNKS = 4, 3
_SHAPE = [2, _LAYERS, _BLOCKS_IN_CHUNK * _BLOCK, _HEADS * _SIZE]
_CHUNK_BYTES = 2 * 2 * _LAYERS * _BLOCKS_IN_CHUNK * _BLOCK * _HEADS * _SIZE
_FROM = list(range(2, 2 + _BLOCKS_IN_CHUNK * _CHUNKS))
_TO = list(range(11, 11 + _BLOCKS_IN_CHUNK * _CHUNKS))


class _Planes:
    """Caches on the device, and their content on the host: ``truth[layer][side]``."""

    def __init__(self) -> None:
        self._torch = _probe.load("torch")
        shape = (_BLOCKS, _BLOCK, _HEADS, _SIZE)
        self.truth = [[self._torch.randn(shape).to(self._torch.bfloat16) for _ in range(2)] for _ in range(_LAYERS)]
        self.caches: dict[str, Foreign] = {
            f"layer.{n}": tuple(side.to("hpu") for side in self.truth[n]) for n in range(_LAYERS)
        }

    def check_loaded(self, probe: _probe.Probe, what: str) -> None:
        """Check that the blocks of ``_TO`` are those of ``_FROM``, and the rest is as before."""
        for layer in range(_LAYERS):
            for side in range(2):
                expected = self.truth[layer][side].clone()
                expected[_TO] = self.truth[layer][side][_FROM]
                now = self.caches[f"layer.{layer}"][side].cpu()
                right = self._torch.equal(now, expected)
                probe.check(right, f"{what}: layer {layer}, {'KV'[side]}: blocks are not what was stored")

    def check_stored(self, probe: _probe.Probe, memory: memoryview, server: kv_server.Server) -> None:
        """Check every chunk in the server's memory."""
        for n, slot in enumerate(server.slots(_CHUNKS)):
            raw = bytearray(memory[slot["offset"] : slot["offset"] + _CHUNK_BYTES])
            held = self._torch.frombuffer(raw, dtype=self._torch.bfloat16).view(_SHAPE)
            blocks = _FROM[n * _BLOCKS_IN_CHUNK : (n + 1) * _BLOCKS_IN_CHUNK]
            right = all(
                self._torch.equal(held[side, layer], self.truth[layer][side][blocks].reshape(_SHAPE[2:]))
                for layer in range(_LAYERS)
                for side in range(2)
            )
            probe.check(right, f"chunk {n} of the server's memory is not what the blocks held when it was stored")


def check_transfer(probe: _probe.Probe) -> None:
    """Store into the memory of a stand-in for the server, and load from it; then without any such memory."""
    with kv_server.segment(kv_server.segment_bytes(_CHUNK_BYTES, _CHUNKS)) as segment:
        _through_memory(probe, segment)
    with probe.section("control: a server without shared memory"):
        _through_messages(probe)


def _through_memory(probe: _probe.Probe, segment: shared_memory.SharedMemory) -> None:
    """Blocks go to the segment and from it to others, in the calling thread; fewer than asked for are a failed load."""
    memory, planes = segment.buf, _Planes()
    assert memory is not None
    server = kv_server.Server(segment, _SHAPE, _CHUNK_BYTES, _CHUNKS)
    worker = kv_server.Worker(server, planes.caches, _BLOCKS_IN_CHUNK)
    name = type(worker.transfer).__name__
    probe.check("Async" not in name, f"transfers run in a thread of their own ({name}): one graph for all")
    probe.check(worker.store(_FROM), "a store has failed")
    planes.check_stored(probe, memory, server)
    probe.check(_pickled(server) == 0, f"{_pickled(server)} bytes of KV were pickled, where shared memory is there")
    server.found = _CHUNKS - 1
    probe.check(not worker.load(_TO), "an answer that is a chunk short counts as loaded")
    server.found = _CHUNKS
    probe.check(worker.load(_TO), "a load has failed")
    planes.check_loaded(probe, "from shared memory")
    worker.close()


def _through_messages(probe: _probe.Probe) -> None:
    """Here LMCache pickles, and the check of the above must see it."""
    planes, server = _Planes(), kv_server.Server(None, _SHAPE, _CHUNK_BYTES, _CHUNKS)
    worker = kv_server.Worker(server, planes.caches, _BLOCKS_IN_CHUNK)
    probe.check(worker.store(_FROM), "a store has failed")
    pickled, least = _pickled(server), _CHUNKS * _CHUNK_BYTES
    probe.check(pickled >= least, f"{pickled} bytes were pickled, not {least}: pickled KV would not be noticed")
    probe.check(worker.load(_TO), "a load has failed")
    planes.check_loaded(probe, "from messages")
    worker.close()


def _pickled(server: kv_server.Server) -> int:
    """Return the bytes that came with the stores; a store that never came counts as none, and fails by its result."""
    return sum(map(len, server.sent))
