"""Multiprocess mode over a server's shared memory: no KV in a message, none copied by the bridge. A script.

It uses LMCache's own worker side of the transfer, with a stand-in for the server that hands out slots of a segment. The
argument names the caches: ``mha``, ``mla``, or ``shared``, where a layer uses the caches of another one.
"""

from __future__ import annotations

import inspect
import logging
import random
import sys
from multiprocessing import resource_tracker, shared_memory
from types import SimpleNamespace
from typing import Any

import habana_frameworks.torch.utils.internal as internal
import standin_vllm
import torch
from lmcache.gaudi import server_chunks
from lmcache.gaudi.multiprocess import FailedLoads
from lmcache.gaudi.pinning import is_pinned
from lmcache.v1.multiprocess.custom_types import RegisterEngineDrivenContextResponse
from lmcache.v1.multiprocess.transfer_context import EngineDrivenContextShm, EngineDrivenTransferContext

LAYERS, BLOCKS, BLOCK, HEADS, SIZE = 3, 160, 16, 2, 32
BLOCKS_IN_CHUNK, CHUNKS = 4, 19
WIDTH = {"mha": HEADS * SIZE, "shared": HEADS * SIZE, "mla": SIZE}
TOKENS = BLOCKS_IN_CHUNK * BLOCK


class Reply:
    """The server's answer."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        return self._value


class Never(Reply):
    """No answer."""

    def __init__(self) -> None:
        super().__init__(None)

    def wait(self, timeout: float | None = None) -> bool:
        return False


class Server:
    """Slots for the chunks of one prompt, and everything that was sent.

    numbers: of the chunks that a store is to bring. found: how many chunks a load is told of.
    """

    def __init__(self, segment: shared_memory.SharedMemory, shape: list[int], chunk_bytes: int) -> None:
        self.segment, self.shape, self.chunk_bytes = segment, shape, chunk_bytes
        self.sent: list[bytes] = []
        self.numbers: list[int] = []
        self.found = 0

    def slot(self, number: int) -> dict[str, Any]:
        offset = 4096 + number * self.chunk_bytes
        return {"offset": offset, "length": self.chunk_bytes, "shape": self.shape, "dtype": "bfloat16"}

    def held(self, number: int) -> torch.Tensor:
        offset = self.slot(number)["offset"]
        raw = bytearray(self.segment.buf[offset : offset + self.chunk_bytes])
        return torch.frombuffer(raw, dtype=torch.bfloat16).view(-1, LAYERS, *self.shape[-2:])

    def register_kv_cache_engine_driven_context(self, payload: Any) -> Reply:
        return Reply(RegisterEngineDrivenContextResponse(self.segment.name, self.segment.size))

    def prepare_store(self, *arguments: Any) -> Reply:
        context = {"slots": [self.slot(n) for n in self.numbers], "chunk_indices": list(self.numbers)}
        return Reply(SimpleNamespace(success=True, context=context))

    def commit_store(self, key: Any, instance: int, data: bytes) -> Reply:
        self.sent.append(data)
        return Reply(True)

    def prepare_retrieve(self, *arguments: Any) -> Reply:
        slots = [self.slot(n) for n in range(self.found)]
        return Reply(SimpleNamespace(success=True, context={"slots": slots}, data=b""))

    def commit_retrieve(self, *arguments: Any) -> Reply:
        return Reply(True)


class Worker:
    """LMCache's worker side over caches of one kind; ``truth[side][layer]`` is what they must hold."""

    def __init__(self, kind: str, segment: shared_memory.SharedMemory, chunk_bytes: int) -> None:
        sides = 1 if kind == "mla" else 2
        row = (SIZE,) if kind == "mla" else (HEADS, SIZE)
        self.sides, self.width = sides, WIDTH[kind]
        shape = (BLOCKS, BLOCK, *row)
        self.truth = [[torch.randn(shape).to(torch.bfloat16) for _ in range(LAYERS)] for _ in range(sides)]
        planes = [[on_device(side[n]) for side in self.truth] for n in range(LAYERS)]
        if kind == "shared":
            planes[2] = planes[1]
            for side in self.truth:
                side[2] = side[1]
        self.planes = planes
        self.caches: dict[str, Any] = {
            f"layer.{n}": tuple(one) if sides == 2 else one[0] for n, one in enumerate(planes)
        }
        object_shape = [LAYERS, TOKENS, self.width]
        self.server = Server(segment, object_shape if sides == 1 else [2, *object_shape], chunk_bytes)
        make: Any = EngineDrivenTransferContext
        self.own: tuple[int, ...] = ()
        if len(inspect.signature(make.__init__).parameters) > 1:
            self.transfer = make(7, self.server)
            self.transfer.register(self.caches, "model", 1, BLOCKS_IN_CHUNK, 5.0)
        else:  # in 0.5.5, the instance and the client come with each call
            self.transfer, self.own = make(), (7,)
            self.transfer.register(*self.own, self.caches, "model", 1, BLOCKS_IN_CHUNK, self.server, 5.0)
        resource_tracker.register(f"/{segment.name}", "shared_memory")  # LMCache treats it as another process's

    def store(self, blocks: list[int], numbers: list[int]) -> dict[str, int]:
        """Store some chunks of a prompt, and compare what the server then holds."""
        counters = current()
        self.server.numbers = numbers
        before = {n: self.server.held(n) for n in range(CHUNKS) if n not in numbers}
        counters.reset()
        done = self.transfer.submit_store("request", "key", *self.own, self.caches, [blocks], None, BLOCKS_IN_CHUNK)
        cost = dict(counters.snapshot())
        assert done.result() is True
        for n in numbers:
            held, own = self.server.held(n), blocks[n * BLOCKS_IN_CHUNK : (n + 1) * BLOCKS_IN_CHUNK]
            for side, layers in enumerate(self.truth):
                for layer, plane in enumerate(layers):
                    assert torch.equal(held[side, layer], plane[own].reshape(TOKENS, self.width)), (n, side, layer)
        assert all(torch.equal(self.server.held(n), held) for n, held in before.items()), "another chunk was written"
        return cost

    def load(self, blocks: list[int], chunks: int, skip: int = 0) -> dict[str, int]:
        """Load the first chunks into blocks, and compare all caches."""
        counters = current()
        self.server.found = chunks
        stored = [self.server.held(n) for n in range(chunks)]
        counters.reset()
        done = self.transfer.submit_retrieve(
            "request", "key", *self.own, self.caches, [blocks], None, BLOCKS_IN_CHUNK, skip_first_n_tokens=skip
        )
        cost = dict(counters.snapshot())
        assert done.result() is True
        for side, layers in enumerate(self.truth):
            for layer, plane in enumerate(layers):
                rows = plane.view(BLOCKS * BLOCK, self.width)
                for token in range(skip, chunks * TOKENS):
                    number, offset = divmod(token, TOKENS)
                    rows[blocks[token // BLOCK] * BLOCK + token % BLOCK] = stored[number][side, layer, offset]
                now = self.planes[layer][side].cpu()
                assert torch.equal(now, plane), (side, layer)
        return cost


def on_device(plane: torch.Tensor) -> torch.Tensor:
    """A cache as vllm-gaudi makes it: blocks, as a view of a flat allocation with one block more."""
    flat = torch.zeros((BLOCKS + 1) * BLOCK, *plane.shape[2:], dtype=plane.dtype, device="hpu")
    view = flat.view(BLOCKS + 1, *plane.shape[1:])[:BLOCKS]
    view.copy_(plane)
    return view


def current() -> Any:
    return sys.modules["hpu_emulator"].current().counters


def main(kind: str) -> None:
    chunk_bytes = 2 * (1 if kind == "mla" else 2) * LAYERS * TOKENS * WIDTH[kind]
    segment = shared_memory.SharedMemory(create=True, size=4096 + CHUNKS * chunk_bytes)
    try:
        exercise(kind, Worker(kind, segment, chunk_bytes), chunk_bytes)
    finally:
        segment.unlink()
    print("passed")
    sys.stdout.flush()


def exercise(kind: str, worker: Worker, chunk_bytes: int) -> None:
    context = worker.transfer.engine_driven_context
    assert isinstance(context, EngineDrivenContextShm), type(context)
    assert not context._pinned
    worker.server.numbers = [0]
    (view,), _ = context.prepare_store("key", 7)
    assert not is_pinned(view), "the bridge knows its own allocations alone"
    rng = random.Random(5)
    blocks = rng.sample(range(BLOCKS), BLOCKS_IN_CHUNK * CHUNKS)
    worker.store(blocks, [0])  # the first one compiles
    stored = worker.store(blocks, list(range(CHUNKS)))
    loaded = worker.load(rng.sample(range(BLOCKS), len(blocks)), CHUNKS)
    for what, cost in (("store", stored), ("load", loaded)):
        if kind == "shared":  # LMCache's own transfer: the bridge makes an extra copy of each byte
            assert cost["bounce_bytes"] == cost["d2h_bytes"] + cost["h2d_bytes"] >= CHUNKS * chunk_bytes, cost
        else:
            check_cost(what, cost, CHUNKS)
    assert set(worker.server.sent) == {b""}, "KV was pickled"
    copied = server_chunks.server_chunks(worker.caches, BLOCKS_IN_CHUNK)
    assert (copied.transfer is None) == (kind == "shared")
    for _ in range(12):  # other lengths, prompts of which the server has some chunks, prefixes that vLLM has
        numbers = sorted(rng.sample(range(CHUNKS), rng.randint(1, CHUNKS)))
        cost = worker.store(rng.sample(range(BLOCKS), len(blocks)), numbers)
        chunks = rng.randint(1, CHUNKS)
        skip = rng.randrange(chunks * BLOCKS_IN_CHUNK) * BLOCK
        other = worker.load(rng.sample(range(BLOCKS), chunks * BLOCKS_IN_CHUNK), chunks, skip)
        if kind != "shared":
            check_cost("store", cost, len(numbers))
            check_cost("load", other, chunks - skip // TOKENS)
    # A server that has come back is registered with anew; nothing is compiled or pinned for it again.
    if copied.transfer is not None:
        assert server_chunks.server_chunks(dict(worker.caches), BLOCKS_IN_CHUNK) is copied
    refuse(worker, blocks)
    unanswered(worker, blocks)
    worker.transfer.close()
    server_chunks.forget(copied)
    assert not server_chunks._workers


def check_cost(what: str, cost: dict[str, int], chunks: int) -> None:
    assert cost["graph_compilation"] == 0, (what, cost)
    assert cost["bounce_bytes"] == cost["unpinned_copies"] == cost["blocking_copies"] == 0, (what, cost)
    assert cost["view_writes"] == cost["cpu_fallback"] == 0, (what, cost)
    groups = chunks // 8 + (chunks % 8).bit_count()
    if internal.is_lazy():  # in eager mode without a compiler, each operation is launched
        assert cost["graph_launches"] == groups, (what, chunks, cost)
    assert cost["d2h_copies"] + cost["h2d_copies"] <= chunks + 2 + groups, (what, cost)


def refuse(worker: Worker, blocks: list[int]) -> None:
    """A block outside the caches is never written, and the load counts as failed."""
    worker.server.found = 2
    outside = [*blocks[: BLOCKS_IN_CHUNK * 2 - 1], BLOCKS]
    if server_chunks.server_chunks(worker.caches, BLOCKS_IN_CHUNK).transfer is None:
        return
    done = worker.transfer.submit_retrieve("request", "key", *worker.own, worker.caches, [outside], None, 4)
    assert done.result() is False
    for side, layers in enumerate(worker.truth):
        for layer, plane in enumerate(layers):
            assert torch.equal(worker.planes[layer][side].cpu(), plane), "a refused load has written"
    chunks = server_chunks.server_chunks(worker.caches, BLOCKS_IN_CHUNK)
    for refused in (
        lambda: chunks.store(blocks, [0, 1], [worker.server.held(0)]),
        lambda: chunks.load(blocks[: BLOCKS_IN_CHUNK * 2 - 1], [worker.server.held(0)] * 2, 0),
        lambda: chunks.load(blocks, [worker.server.held(0)[..., :-1]], 0),
    ):
        try:
            refused()
        except ValueError:
            continue
        raise AssertionError("memory that does not fit is taken")


def unanswered(worker: Worker, blocks: list[int]) -> None:
    """A server that does not answer a store costs a hit, and no engine, although LMCache's context raises."""
    standin_vllm.install()
    from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPWorkerAdapter

    adapter: Any = object.__new__(LMCacheMPWorkerAdapter)
    for method in ("_ensure_heartbeat_started", "_create_key"):
        setattr(adapter, method, lambda *_, **__: SimpleNamespace(request_id="stored"))
    adapter.__dict__.update(
        {"gaudi_loads": FailedLoads(adapter), "lazy_offload": True, "_completed_store_requests": {}},
        transfer_ctx=worker.transfer,
        kv_caches=worker.caches,
        blocks_in_chunk=BLOCKS_IN_CHUNK,
        store_futures={},
        instance_id=7,
    )
    adapter._block_ids_per_group = lambda op: op.block_ids
    kind = type(adapter)
    if hasattr(kind, "get_failed_store_requests"):  # from 0.5.6 on
        adapter._failed_store_requests = set()
    properties = {name: getattr(kind, name) for name in ("is_kv_writer", "is_healthy")}
    for name in properties:
        setattr(kind, name, True)
    op = SimpleNamespace(token_ids=[1], start=0, end=1, block_ids=[blocks])
    answers = worker.server.prepare_store
    try:
        for fault in (Never(), Reply(SimpleNamespace(success=True, context={"slots": [{}], "chunk_indices": [0]}))):
            worker.server.prepare_store = lambda *_, fault=fault: fault  # type: ignore[method-assign]
            kind.submit_store_request(adapter, "stored", op, None)
            assert adapter.get_completed_store_requests() == {"stored": 1}, "vLLM's scheduler waits for this rank"
            assert not adapter.store_futures
    finally:
        worker.server.prepare_store = answers  # type: ignore[method-assign]
        for name, value in properties.items():
            setattr(kind, name, value)


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    main(sys.argv[1])
