"""The ways beyond the connector by which LMCache moves a prompt's KV: its engine, and its multiprocess mode.

A prompt is stored from random blocks and loaded into others. Each load is compared with what was stored, plane by
plane, by digests: the caches may be as large as the memory of the host allows.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import oracle as kv_oracle
    from gaudi_patch.smoke.probes._kv import ranks as kv_ranks
    from gaudi_patch.smoke.probes._kv import server as kv_server
    from gaudi_patch.smoke.probes._kv.caches import Caches
    from gaudi_patch.smoke.probes._kv.oracle import Random
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _environment
    import _probe

    from _kv import lmcache as kv_lmcache
    from _kv import oracle as kv_oracle
    from _kv import ranks as kv_ranks
    from _kv import server as kv_server
    from _kv.caches import Caches

np: Any = _probe.load("numpy")

_OBJECT_SLACK = 8192  # an allocator aligns its objects
_VOCABULARY = 100_000
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Python's shared_memory is


class Way(ABC):
    """One way over one set of caches.

    mover: the name of the class that moves the KV. whole: whether only whole chunks can move.
    """

    mover: str
    whole = False

    def __init__(self, caches: Caches, chunk: int, rng: Random) -> None:
        self.caches, self.chunk, self.rng = caches, chunk, rng
        self.token_bytes = int(sum(caches.widths) * caches.kv * caches.dtype.itemsize)

    @property
    def host_copied_bytes(self) -> int | None:
        """Return the bytes that the host has copied so far, other than the bridge's; None if not counted."""
        return None

    def request(self, tokens: int) -> RoundTrip:
        """Return a prompt of this length."""
        return RoundTrip(self, tokens)

    @abstractmethod
    def mover_of(self, direction: str, tokens: int, slots: Sequence[int]) -> Callable[[], None]:
        """Return a call that stores a new prompt of this length from the slots, or loads the last one into them.

        It may be called again, and raises RuntimeError if it moves less.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the memory."""


class RoundTrip:
    """A prompt that is stored, and then loaded."""

    def __init__(self, way: Way, tokens: int) -> None:
        self._way, self._tokens = way, tokens
        self._stored: list[bytes] = []
        self._slots: list[int] = []
        self._same_before = 0

    def ready(self, direction: str) -> Callable[[], None]:
        """Return the call that moves the prompt, in new slots."""
        caches = self._way.caches
        self._slots = kv_oracle.slot_map(self._tokens, caches.blocks, caches.block_size, self._way.rng)
        now = self._digests()
        if direction == "store":
            self._stored, self._same_before = now, 0
        else:
            # Rows that are there already would be found whether they are loaded or not.
            self._same_before = sum(map(bytes.__eq__, now, self._stored))
        return self._way.mover_of(direction, self._tokens, self._slots)

    def wrong(self) -> int:
        """Return the number of planes whose rows are not as stored: changed by a store, or not brought by a load."""
        return self._same_before + sum(map(bytes.__ne__, self._digests(), self._stored))

    def free(self) -> None:
        """Nothing is to be freed: LMCache evicts the prompt for the next ones."""

    def _digests(self) -> list[bytes]:
        caches, index = self._way.caches, np.asarray(self._slots)
        numbers = range(len(caches.heads) * caches.kv)
        return [hashlib.blake2b(caches.read_plane(number)[index]).digest() for number in numbers]


class Engine(Way):
    """LMCache's engine over its CPU backend, which has room for one prompt of ``held`` tokens."""

    def __init__(self, caches: Caches, chunk: int, held: int, rng: Random) -> None:
        super().__init__(caches, chunk, rng)
        self._torch = _probe.load("torch")
        size = (held + 2 * chunk) * self.token_bytes + (held // chunk + 2) * _OBJECT_SLACK
        config = kv_lmcache.make_config(
            chunk_size=chunk,
            save_unfull_chunk=True,
            reserve_local_cpu_size=0.0,
            local_cpu=True,
            max_local_cpu_size=size / _probe.GIB,
        )
        shape = (len(caches.entries), caches.kv, chunk, caches.heads[0], caches.head_size)
        metadata = kv_lmcache.make_metadata(kv_shape=shape, dtype=caches.dtype, use_mla=caches.layout.mla)
        self._connector = kv_lmcache.make_connector(config, metadata)
        nobody = kv_ranks.Nobody()
        self._engine = kv_lmcache.make_engine(config, metadata, self._connector, nobody.send_tensor, nobody.send_object)
        kv_lmcache.register(self._connector, caches.entries)
        self.mover = type(self._connector).__name__
        self._prompt: Foreign = None

    @property
    def host_copied_bytes(self) -> int | None:
        """Return what the connector counts."""
        transfer = getattr(self._connector, "transfer", None)
        return None if transfer is None else int(transfer.host_copied_bytes)

    def mover_of(self, direction: str, tokens: int, slots: Sequence[int]) -> Callable[[], None]:
        """Each store has other tokens, so that none is found to be there."""
        mapping = self._torch.tensor(list(slots), dtype=self._torch.int64)
        if not _environment.is_patched():  # their adapter keeps it on the device
            mapping = mapping.to("hpu")
        arguments = {"kvcaches": self.caches.entries, "slot_mapping": mapping}

        def store() -> None:
            self._prompt = self._torch.from_numpy(self.rng.integers(0, _VOCABULARY, tokens))
            self._engine.store(self._prompt, **arguments)

        def load() -> None:
            mask = self._torch.ones(tokens, dtype=self._torch.bool)
            found = self._engine.retrieve(self._prompt, mask, vllm_cached_tokens=0, req_id="bench", **arguments)
            if int(found.sum()) != tokens:
                raise RuntimeError(f"the engine has retrieved {int(found.sum())} of {tokens} tokens")

        return store if direction == "store" else load

    def close(self) -> None:
        """Stop the engine."""
        kv_lmcache.close_engine()


class Multiprocess(Way):
    """The worker's side of multiprocess mode, over shared memory for ``held`` tokens, with a stand-in for the server.

    Raises:
        Skip: Shared memory has no room for them, or this release has no such mode for an HPU.
    """

    whole = True

    def __init__(self, caches: Caches, chunk: int, held: int, rng: Random) -> None:
        if kv_lmcache.release() < (0, 5, 5):
            raise _probe.Skip("LMCache before 0.5.5 refuses vllm-gaudi's layout in multiprocess mode")
        super().__init__(caches, chunk, rng)
        layers, width = len(caches.entries), caches.widths[0]
        shape = [layers, chunk, width] if caches.layout.mla else [2, layers, chunk, width]
        chunk_bytes, chunks = chunk * self.token_bytes, held // chunk
        size = kv_server.segment_bytes(chunk_bytes, chunks)
        room = os.statvfs(_SHARED_MEMORY)
        if size > room.f_bavail * room.f_frsize:
            free = room.f_bavail * room.f_frsize >> 20
            raise _probe.Skip(f"{_SHARED_MEMORY} has {free} MiB free, and the server's memory takes {size >> 20}")
        entries = {f"layer.{number}": entry for number, entry in enumerate(caches.entries)}
        with ExitStack() as stack:
            segment = stack.enter_context(kv_server.segment(size))
            self._server = kv_server.Server(segment, shape, chunk_bytes, chunks)
            self._worker = kv_server.Worker(self._server, entries, chunk // caches.block_size)
            segment.unlink()  # both sides have mapped it, and nothing is left if this process is killed
            self._stack = stack.pop_all()
        self._runtime: Foreign = None
        if _environment.is_patched():
            chunks = _probe.load("lmcache.gaudi.server_chunks")
            self._runtime = chunks.server_chunks(entries, chunk // caches.block_size).transfer
        self.mover = type(self._worker.transfer if self._runtime is None else self._runtime).__name__

    @property
    def host_copied_bytes(self) -> int | None:
        """Return what the runtime counts; LMCache's own transfer counts nothing."""
        return None if self._runtime is None else int(self._runtime.host_copied_bytes)

    def mover_of(self, direction: str, tokens: int, slots: Sequence[int]) -> Callable[[], None]:
        """Whole chunks, by their blocks."""
        size = self.caches.block_size
        blocks = [slot // size for slot in slots[::size]]
        self._server.found = tokens // self.chunk
        self._server.missing = range(self._server.found)
        call = self._worker.store if direction == "store" else self._worker.load

        def move() -> None:
            if not call(blocks):
                raise RuntimeError(f"the {direction} of {tokens} tokens has failed")
            if any(self._server.sent):
                raise RuntimeError("KV was pickled, though worker and server share memory")
            self._server.sent.clear()

        return move

    def close(self) -> None:
        """Remove the memory."""
        self._worker.close()
        self._stack.close()
