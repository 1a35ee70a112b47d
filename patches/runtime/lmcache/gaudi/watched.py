# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""LMCache's client of a multiprocess server, watched: no step of the engine waits for a server that is dead."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["WatchedClient", "start_heartbeats"]

# Requests to the server that a step of the engine waits for.
_DATA_REQUESTS = ("prepare_store", "commit_store", "prepare_retrieve", "commit_retrieve")
_POLL_SECONDS = 0.25
# A server that answers pings and nothing else is alive for the heartbeat. LMCache waits 300 s (lmcache.mp.mq_timeout).
_DATA_SECONDS = 30.0


def start_heartbeats(scheduler: Any) -> None:
    """Start the heartbeats of the scheduler's side, which 0.5.5 never does.

    It begins with an empty dict, and takes all but None for heartbeats that have started. Without them, each lookup
    waits 300 s for a server that is dead, and its request with it. 0.5.6 begins with None.

    Args:
        scheduler: LMCache's ``LMCacheMPSchedulerAdapter``.
    """
    with scheduler._heartbeat_lock:
        if scheduler._heartbeats != {}:
            return
        heartbeat: Any = vars(sys.modules[type(scheduler).__module__])["HeartbeatThread"]
        for url, client in scheduler.req_clients.items():
            pings = heartbeat(
                req_client=client,
                health_event=scheduler._health_events[url],
                interval=scheduler._heartbeat_interval,
            )
            pings.start()
            scheduler._heartbeats[url] = pings


class WatchedClient:
    """LMCache's client of the server; what a step waits for ends when the heartbeat finds it dead, and after 30 s."""

    def __init__(self, client: Any, adapter: Any) -> None:
        self._client, self._adapter = client, adapter

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        unregisters = name.startswith("unregister")
        if name not in _DATA_REQUESTS and not unregisters:
            return call
        # At the end nobody pings any more: what two heartbeats would have told is all there is to know.
        limit = 2 * self._adapter._heartbeat_interval if unregisters else _DATA_SECONDS
        return lambda *args, **kwargs: _WatchedFuture(call(*args, **kwargs), self._adapter, limit)


class _WatchedFuture:
    """A reply of the server; waiting for it ends when the server is known to be dead."""

    def __init__(self, future: Any, adapter: Any, limit: float) -> None:
        self._future, self._adapter, self._limit = future, adapter, limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the reply; False after ``timeout`` seconds, or once the server is dead."""
        deadline = time.monotonic() + (self._limit if timeout is None else min(timeout, self._limit))
        while not self._future.wait(max(0.0, min(_POLL_SECONDS, deadline - time.monotonic()))):
            if not self._adapter.is_healthy or time.monotonic() >= deadline:
                return bool(self._future.query())
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Return the reply.

        Raises:
            TimeoutError: There is none after ``timeout`` seconds, or 30, or the server is dead.
        """
        if not self.wait(timeout):
            raise TimeoutError("LMCache's server has not answered; its heartbeat shows whether it is alive")
        return self._future.result(timeout=0)
