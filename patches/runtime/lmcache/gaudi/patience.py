# SPDX-License-Identifier: Apache-2.0
"""Calls into a store that may never return: each wait ends when its answer is no longer wanted.

LMCache asks a remote store without a limit (``RemoteBackend.contains``), and reads a file as long as it takes: with a
server that hangs, or a share that is not there, the thread that looks up would stand still, and with it every lookup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..logging import init_logger

__all__ = ["Patience"]

logger = init_logger(__name__)

R = TypeVar("R")


class Patience:
    """One call at a time into stores, with a time limit.

    Args:
        seconds: How long a call is waited for.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._overdue: _Call[object] | None = None

    def call(self, function: Callable[[], R], otherwise: R, meanwhile: Callable[[], R], late: Callable[[], None]) -> R:
        """Return what ``function`` returns, or raise what it raises.

        Args:
            function: What to call, in a thread of its own: nothing of the device may be in it.
            otherwise: What to return where the answer takes too long.
            meanwhile: What to call in its place while an earlier answer is overdue; it asks no store.
            late: Called where an answer comes that nobody waits for any more, to release what it holds.
        """
        with self._lock:
            overdue = self._overdue is not None and not self._overdue.done.is_set()
            if not overdue:
                self._overdue = None
        if overdue:
            logger.warning("a store has not answered an earlier lookup yet; only host memory is searched")
            return meanwhile()
        call = _Call(function, late)
        threading.Thread(target=call.run, name="lmcache-gaudi-store", daemon=True).start()
        if call.done.wait(self._seconds) or not call.abandon():
            return call.result()
        logger.error(
            "a store has not answered within %.1f s (lookup_timeout_ms): counted as a miss; until it answers, only "
            "host memory is searched",
            self._seconds,
        )
        with self._lock:
            self._overdue = call  # type: ignore[assignment]
        return otherwise


class _Call(Generic[R]):
    def __init__(self, function: Callable[[], R], late: Callable[[], None]) -> None:
        self._function, self._late = function, late
        self._lock = threading.Lock()
        self._abandoned = False
        self._value: list[R] = []
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._value.append(self._function())
        except BaseException as error:  # belongs to the caller, in whose thread it is raised
            self._error = error
        with self._lock:
            if not self._abandoned:
                self.done.set()
                return
        try:
            self._late()
        except Exception:
            logger.exception("the chunks of a store's late answer could not be released")
        finally:
            self.done.set()

    def abandon(self) -> bool:
        """Give up waiting; False where the answer has come meanwhile."""
        with self._lock:
            self._abandoned = not self.done.is_set()
            return self._abandoned

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._value[0]
