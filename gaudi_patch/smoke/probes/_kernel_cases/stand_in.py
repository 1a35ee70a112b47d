"""A stand-in for the worker's side of LMCache's multiprocess mode, without a server; the runtime's tests use it too."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes._probe import Foreign


class Adapter:
    """The names of ``LMCacheMPWorkerAdapter`` that the runtime uses."""

    lmcache_tokens_per_chunk, blocks_in_chunk, _heartbeat_interval, world_size = 64, 2, 0.1, 2
    answer: bool | Exception = True
    is_healthy = True
    pool_size = 0

    def __init__(self) -> None:
        self.error_block_ids: set[int] = set()
        self._failed_request_ids: set[str] = set()
        self._dropped_retrieves: set[str] = set()
        self.done: dict[str, tuple[bool, list[int]]] = {}
        self.req_client: Foreign = SimpleNamespace(prepare_retrieve=Silent, ping=Silent, unregister_kv_cache=Silent)

    def register_kv_caches(self, kv_caches: Foreign) -> None:
        """Learn how much memory the server has."""
        self.transfer_ctx = SimpleNamespace(_engine_driven_context=SimpleNamespace(_pool_size=self.pool_size))

    def submit_retrieve_request(self, request_id: str, op: Foreign) -> None:
        """Ask for a load."""
        if isinstance(self.answer, Exception):
            raise self.answer
        self.done[request_id] = (self.answer, op.flat_block_ids)

    def submit_store_request(self, request_id: str, op: Foreign) -> None:
        """Ask for a store."""
        if isinstance(self.answer, Exception):
            raise self.answer

    def get_finished(self, ended: set[str]) -> tuple[set[str], set[str]]:
        """Return the stores and the loads that have finished, failed ones among them."""
        finished = set(self.done) | self._dropped_retrieves
        for name, (loaded, blocks) in self.done.items():
            if not loaded:
                self.error_block_ids.update(blocks)
                self._failed_request_ids.add(name)
        self.done, self._dropped_retrieves = {}, set()
        return set(ended), finished

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Return the blocks that could not be loaded, once."""
        found = set(self.error_block_ids)
        self.error_block_ids.clear()
        return found


class Silent:
    """A reply that never comes."""

    def __init__(self, *arguments: Foreign) -> None:
        self._never = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait; in vain."""
        return self._never.wait(timeout)

    def query(self) -> bool:
        """Return whether it is there."""
        return False
