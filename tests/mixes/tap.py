"""A look at the messages between a worker and LMCache's server in multiprocess mode, and at the memory they share.

What a worker says must be true when it says it. When it commits a store, the server may hand the bytes to anybody, so
they must be there, whole and right. When it ends a retrieve, the server may give the memory to another store, so
nobody may read it any more: it is overwritten at once, as long as the loaded KV is compared.

Imported below inside.py; shares no code with what it judges.
"""

from __future__ import annotations

import collections
import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.mixes.rows import CHUNK


class Memory:
    """The server's shared memory, and what was found wrong.

    expected: each request's KV by name and rank, uint8 ``[positions, bytes]`` for each plane.
    overwrites: whether a retrieve's memory is overwritten at its end; not if the server still writes it elsewhere.
    committed, by_message: the chunks that were compared at a commit, and those whose KV came in the message.
    """

    def __init__(self, *, overwrites: bool) -> None:
        self.expected: dict[tuple[str, int], Sequence[Any]] = {}
        self.problems: list[str] = []
        self.overwrites = overwrites
        self.committed = self.by_message = self.overwritten = 0
        self._bytes: Any = None
        self._saved: dict[int, Any] = {}
        self._readers: collections.Counter[int] = collections.Counter()
        self._lock = threading.RLock()

    def registered(self, answer: Any) -> None:
        """Open the memory that the server names at registration, if it names any."""
        name = str(getattr(answer, "shm_name", "") or "").lstrip("/")
        if name and self._bytes is None:
            self._bytes = np.memmap(Path("/dev/shm") / name, dtype=np.uint8, mode="r+")

    def to_be_written(self, slots: Sequence[Any]) -> None:
        """Note that these slots get other content: what they had is not restored."""
        with self._lock:
            for slot in slots:
                self._saved.pop(int(slot["offset"]), None)

    def to_be_read(self, slots: Sequence[Any]) -> None:
        """Restore these slots, if they were overwritten."""
        with self._lock:
            for slot in slots:
                self._readers[int(slot["offset"])] += 1
                self._restore(int(slot["offset"]))

    def has_been_read(self, slots: Sequence[Any]) -> None:
        """Overwrite these slots, if nobody else is reading them."""
        with self._lock:
            for slot in slots:
                start, length = int(slot["offset"]), int(slot["length"])
                self._readers[start] -= 1
                if self.overwrites and not self._readers[start] and start not in self._saved:
                    self._saved[start] = self._bytes[start : start + length].copy()
                    self._bytes[start : start + length] ^= 0xA5
                    self.overwritten += 1

    def restore(self) -> None:
        """Restore all slots that were overwritten."""
        with self._lock:
            for start in list(self._saved):
                self._restore(start)

    def committed_slots(self, key: Any, rank: int, slots: Sequence[Any], indices: Sequence[int]) -> None:
        """Compare slots with the KV of the key's request."""
        for slot, index in zip(slots, indices, strict=True):
            start = int(slot["offset"])
            self._compare(key, rank, int(index), self._bytes[start : start + int(slot["length"])])

    def committed_message(self, key: Any, rank: int, data: bytes) -> None:
        """Compare the chunks in a message with the KV of the key's request."""
        for index, chunk in enumerate(pickle.loads(data)):
            self.by_message += 1
            self._compare(key, rank, index, chunk.contiguous().view(-1).view(torch.uint8).numpy())

    def _compare(self, key: Any, rank: int, index: int, content: Any) -> None:
        first = key.start + index * CHUNK
        rows = self.expected[key.request_id, rank]
        right = np.concatenate([plane[first : first + CHUNK].reshape(-1) for plane in rows])
        self.committed += 1
        if content.shape != right.shape:
            self._say(f"{key.request_id}, rank {rank}: a chunk of {content.size} bytes, not {right.size}")
        elif (unequal := np.flatnonzero(content != right)).size:
            self._say(
                f"{key.request_id}, rank {rank}: when the store of tokens {first} to {first + CHUNK} is committed, "
                f"{unequal.size} of {right.size} bytes are wrong"
            )

    def _restore(self, start: int) -> None:
        before = self._saved.pop(start, None)
        if before is not None:
            self._bytes[start : start + before.size] = before

    def _say(self, problem: str) -> None:
        with self._lock:
            self.problems.append(problem)


class Noting:
    """A reply; what it is worth is noted when it is read for the first time."""

    def __init__(self, future: Any, note: Callable[[Any], None]) -> None:
        self._future, self._note, self._noted = future, note, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """Return the reply."""
        answer = self._future.result(*args, **kwargs)
        if not self._noted:
            self._noted = True
            self._note(answer)
        return answer


class Tap:
    """A worker's client of the server, which passes everything on.

    Args:
        client: The worker's own.
        memory: Judges what is said.
        rank: The worker's number.
    """

    def __init__(self, client: Any, memory: Memory, rank: int) -> None:
        self._client, self._memory, self._rank = client, memory, rank
        self._stores: dict[tuple[str, int], tuple[Sequence[Any], Sequence[int]]] = {}
        self._retrieves: dict[tuple[str, int], Sequence[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def register_kv_cache_engine_driven_context(self, *args: Any) -> Any:
        """Note the memory's name."""
        return Noting(self._client.register_kv_cache_engine_driven_context(*args), self._memory.registered)

    def prepare_store(self, key: Any, *args: Any) -> Any:
        """Note where the store goes."""

        def note(answer: Any) -> None:
            slots, indices = _slots(answer), _context(answer).get("chunk_indices", ())
            self._stores[key.request_id, key.start] = (slots, indices)
            self._memory.to_be_written(slots)

        return Noting(self._client.prepare_store(key, *args), note)

    def commit_store(self, key: Any, instance: Any, data: bytes, *args: Any) -> Any:
        """Compare what is committed."""
        slots, indices = self._stores.pop((key.request_id, key.start), ((), ()))
        if data:
            self._memory.committed_message(key, self._rank, data)
        else:
            self._memory.committed_slots(key, self._rank, slots, indices)
        return self._client.commit_store(key, instance, data, *args)

    def prepare_retrieve(self, key: Any, *args: Any) -> Any:
        """Note what is read."""

        def note(answer: Any) -> None:
            slots = _slots(answer)
            self._retrieves[key.request_id, key.start] = slots
            self._memory.to_be_read(slots)

        return Noting(self._client.prepare_retrieve(key, *args), note)

    def commit_retrieve(self, key: Any, *args: Any) -> Any:
        """Overwrite what has been read."""
        self._memory.has_been_read(self._retrieves.pop((key.request_id, key.start), ()))
        return self._client.commit_retrieve(key, *args)


def _context(answer: Any) -> dict[str, Any]:
    found = getattr(answer, "context", None)
    return found if isinstance(found, dict) else {}


def _slots(answer: Any) -> Sequence[Any]:
    return _context(answer).get("slots") or ()
