"""Chunks of multiprocess mode, between the caches and a server's shared memory, by LMCache's own worker side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import server as kv_server
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe
    from _kv import device as kv_device
    from _kv import server as kv_server

_LAYERS, _BLOCKS, _BLOCK, _HEADS, _SIZE = 3, 60, 16, 2, 32
_BLOCKS_IN_CHUNK, _CHUNKS = 4, 11
_TOKENS = _BLOCKS_IN_CHUNK * _BLOCK
_FROM = list(range(2, 2 + _BLOCKS_IN_CHUNK * _CHUNKS))
_TO = [(7 * n + 5) % _BLOCKS for n in range(_BLOCKS_IN_CHUNK * _CHUNKS)]


class _Planes:
    """Caches on the device as vllm-gaudi makes them, and what they must hold: ``truth[layer][side]``.

    latent: K and V in one, as MLA has them. shared: the last layer uses the caches of the one before.
    """

    def __init__(self, *, latent: bool = False, shared: bool = False) -> None:
        self._torch = _probe.load("torch")
        self.sides, row = (1, (_SIZE,)) if latent else (2, (_HEADS, _SIZE))
        self.width = _SIZE if latent else _HEADS * _SIZE
        shape = (_BLOCKS, _BLOCK, *row)
        own = _LAYERS - shared
        self.truth = [
            [self._torch.randn(shape).to(self._torch.bfloat16) for _ in range(self.sides)] for _ in range(own)
        ]
        self._planes = [[self._view(side) for side in layer] for layer in self.truth]
        self.truth += self.truth[own - 1 : own] * shared
        self._planes += self._planes[own - 1 : own] * shared
        self.caches: dict[str, Foreign] = {
            f"layer.{n}": layer[0] if latent else tuple(layer) for n, layer in enumerate(self._planes)
        }
        shape_of_chunk = [_LAYERS, _TOKENS, self.width]
        self.shape = shape_of_chunk if latent else [2, *shape_of_chunk]
        self.chunk_bytes = 2 * self.sides * _LAYERS * _TOKENS * self.width

    def _view(self, plane: Foreign) -> Foreign:
        """Blocks, as a view of a flat allocation that has one more."""
        flat = self._torch.zeros((_BLOCKS + 1) * _BLOCK, *plane.shape[2:], dtype=plane.dtype, device="hpu")
        view = flat.view(_BLOCKS + 1, *plane.shape[1:])[:_BLOCKS]
        view.copy_(plane)
        return view

    def held(self, memory: memoryview, slot: dict[str, int]) -> Foreign:
        """Return a copy of what a slot of the server's memory holds, ``[side, layer, token, width]``."""
        raw = bytearray(memory[slot["offset"] : slot["offset"] + self.chunk_bytes])
        return self._torch.frombuffer(raw, dtype=self._torch.bfloat16).view(self.sides, _LAYERS, _TOKENS, self.width)

    def check_stored(self, probe: _probe.Probe, chunk: Foreign, blocks: Sequence[int], what: str) -> None:
        """Check a chunk of the server's memory against these blocks."""
        right = all(
            self._torch.equal(chunk[side, layer], plane[list(blocks)].reshape(_TOKENS, self.width))
            for layer, sides in enumerate(self.truth)
            for side, plane in enumerate(sides)
        )
        probe.check(right, f"{what} of the server's memory is not what the blocks held when it was stored")

    def expect(self, chunks: Sequence[Foreign], blocks: Sequence[int], skip: int) -> None:
        """Enter what a load writes, from the token ``skip`` on."""
        for layer, sides in enumerate(self.truth):
            for side, plane in enumerate(sides):
                rows = plane.view(_BLOCKS * _BLOCK, self.width)
                for token in range(skip, len(chunks) * _TOKENS):
                    chunk, offset = divmod(token, _TOKENS)
                    rows[blocks[token // _BLOCK] * _BLOCK + token % _BLOCK] = chunks[chunk][side, layer, offset]

    def check_caches(self, probe: _probe.Probe, what: str) -> None:
        """Check all of the caches."""
        for layer, sides in enumerate(self.truth):
            for side, plane in enumerate(sides):
                right = self._torch.equal(self._planes[layer][side].cpu(), plane)
                probe.check(right, f"{what}: layer {layer}, {'KV'[side]}: blocks are not as they must be")


def check_transfer(probe: _probe.Probe) -> None:
    """Store into the memory of a stand-in for the server, and load from it; then without any such memory."""
    for what, planes in (
        ("K and V", _Planes()),
        ("latent caches", _Planes(latent=True)),
        ("a layer that uses another one's caches", _Planes(shared=True)),
    ):
        size = kv_server.segment_bytes(planes.chunk_bytes, _CHUNKS)
        with probe.section(what), kv_server.segment(size) as segment:
            memory = segment.buf
            assert memory is not None
            _through_memory(probe, planes, kv_server.Server(segment, planes.shape, planes.chunk_bytes, _CHUNKS), memory)
    with probe.section("control: a server without shared memory"):
        _through_messages(probe)


def _through_memory(probe: _probe.Probe, planes: _Planes, server: kv_server.Server, memory: memoryview) -> None:
    """Blocks go to the segment and from it to others, in the calling thread; fewer than asked for are a failed load."""
    worker = kv_server.Worker(server, planes.caches, _BLOCKS_IN_CHUNK)
    name = type(worker.transfer).__name__
    probe.check("Async" not in name, f"transfers run in a thread of their own ({name}): one graph for all")
    _stored(probe, planes, server, worker, memory, list(range(_CHUNKS)))  # compiles
    server.found = _CHUNKS - 1
    probe.check(not worker.load(_TO), "an answer that is a chunk short counts as loaded")
    planes.check_caches(probe, "a load that has failed")
    for numbers, chunks, skip in ((range(_CHUNKS), _CHUNKS, 0), ((1, 4, 5), 7, 5 * _BLOCK), ((10,), 1, 0)):
        _stored(probe, planes, server, worker, memory, list(numbers), counted=True)
        server.found = chunks
        held = [planes.held(memory, slot) for slot in server.slots(range(chunks))]
        with kv_device.counting() as counts:
            probe.check(worker.load(_TO[: chunks * _BLOCKS_IN_CHUNK], skip), "a load has failed")
        planes.expect(held, _TO, skip)
        planes.check_caches(probe, f"{chunks} chunks from shared memory, behind {skip} tokens that vLLM has")
        _cheap(probe, planes, counts, f"a load of {chunks} chunks")
    worker.close()


def _stored(
    probe: _probe.Probe,
    planes: _Planes,
    server: kv_server.Server,
    worker: kv_server.Worker,
    memory: memoryview,
    numbers: list[int],
    *,
    counted: bool = False,
) -> None:
    """Store those chunks of the prompt that the server does not have."""
    server.missing = numbers
    others = [n for n in range(_CHUNKS) if n not in numbers]
    before = [bytes(memory[slot["offset"] : slot["offset"] + planes.chunk_bytes]) for slot in server.slots(others)]
    with kv_device.counting() as counts:
        probe.check(worker.store(_FROM), "a store has failed")
    for number, slot in zip(numbers, server.slots(numbers), strict=True):
        blocks = _FROM[number * _BLOCKS_IN_CHUNK : (number + 1) * _BLOCKS_IN_CHUNK]
        planes.check_stored(probe, planes.held(memory, slot), blocks, f"chunk {number}")
    after = [bytes(memory[slot["offset"] : slot["offset"] + planes.chunk_bytes]) for slot in server.slots(others)]
    probe.check(before == after, f"a store of chunks {numbers} has changed others of the server's memory")
    probe.check(_pickled(server) == 0, f"{_pickled(server)} bytes of KV were pickled, where shared memory is there")
    if counted:
        _cheap(probe, planes, counts, f"a store of {len(numbers)} chunks")


def _cheap(probe: _probe.Probe, planes: _Planes, counts: kv_device.Counts, what: str) -> None:
    """No copy of the bridge's own, nothing compiled for a length, a launch for eight chunks."""
    if planes.truth[-1] is planes.truth[-2]:
        return  # a chunk holds that layer twice, and LMCache's own transfer moves it
    counts.at_most(probe, "bounce_bytes", 0, what)
    counts.at_most(probe, "graph_compilation", 0, what)
    counts.at_most(probe, "view_writes", 0, what)
    counts.at_most(probe, "blocking_copies", 0, what)
    if probe.rules == "lazy":
        counts.at_most(probe, "graph_launches", 3, what)


def _through_messages(probe: _probe.Probe) -> None:
    """Here LMCache pickles, and the check of the above must see it."""
    for planes in (_Planes(), _Planes(latent=True)):
        server = kv_server.Server(None, planes.shape, planes.chunk_bytes, _CHUNKS)
        worker = kv_server.Worker(server, planes.caches, _BLOCKS_IN_CHUNK)
        before = [[side.clone() for side in layer] for layer in planes.truth]
        probe.check(worker.store(_FROM), "a store has failed")
        pickled, least = _pickled(server), _CHUNKS * planes.chunk_bytes
        probe.check(pickled >= least, f"{pickled} bytes were pickled, not {least}: pickled KV would not be noticed")
        probe.check(worker.load(_TO), "a load has failed")
        for now, then in zip(planes.truth, before, strict=True):
            for side, plane in enumerate(then):
                now[side][_TO] = plane[_FROM]
        planes.check_caches(probe, "from messages")
        worker.close()


def _pickled(server: kv_server.Server) -> int:
    """Return the bytes that came with the stores; a store that never came counts as none, and fails by its result."""
    return sum(map(len, server.sent))
