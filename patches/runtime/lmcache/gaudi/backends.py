# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""LMCache's storage backends, made to answer: no wait without an end, and no error that ends the engine.

What a backend cannot store, or does not give in time, costs a hit and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from ..logging import init_logger
from .objects import Objects

__all__ = ["HOST", "answer_seconds", "end_waits", "release"]

logger = init_logger(__name__)

#: The backend that is host memory.
HOST = "LocalCPUBackend"
# What it is given must arrive, or be reported by LMCache's own protocol.
_TO_A_DECODER = "PDBackend"
# How long an allocation waits for memory that others hold. LMCache's own loop has no end.
_ALLOCATE_SECONDS = 2.0


def end_waits(engine: Any, backends: Mapping[str, Any]) -> None:
    """Give each wait of the backends an end, and check what they prefetch.

    Args:
        engine: LMCache's engine.
        backends: Its backends by name.
    """
    for name, backend in backends.items():
        if name == HOST:
            backend.allocate = _bounded(backend.allocate)
            continue
        if hasattr(backend, "batched_async_contains"):
            backend.batched_async_contains = _answered(engine, name, backend)
        if hasattr(backend, "batched_get_non_blocking"):
            backend.batched_get_non_blocking = _checked(engine, name, backend.batched_get_non_blocking)
        if name != _TO_A_DECODER:
            backend.batched_submit_put_task = _optional(name, backend.batched_submit_put_task)


def answer_seconds(engine: Any) -> float:
    """Return how long the scheduler waits for a lookup, less what the answer needs to come to it."""
    return float(getattr(engine.config, "lookup_timeout_ms", None) or 3000) / 1000 * 0.9


def release(memory_objs: Iterable[Any]) -> None:
    """Give the references to memory objects back; None among them is passed over."""
    for memory_obj in memory_objs:
        if memory_obj is not None:
            memory_obj.ref_count_down()


def _bounded(allocate: Callable[..., Any]) -> Callable[..., Any]:
    """``LocalCPUBackend.allocate`` with an end: None if no memory is freed in time."""

    @functools.wraps(allocate)
    def bounded(*args: Any, busy_loop: bool = True, **kwargs: Any) -> Any:
        deadline = time.monotonic() + _ALLOCATE_SECONDS
        while True:
            memory_obj = allocate(*args, busy_loop=False, **kwargs)
            if memory_obj is not None or not busy_loop or kwargs.get("eviction") is False:
                return memory_obj
            if time.monotonic() >= deadline:
                logger.error(
                    "no host memory was freed within %.0f s: max_local_cpu_size (%s GB) is held by other requests",
                    _ALLOCATE_SECONDS,
                    getattr(getattr(getattr(allocate, "__self__", None), "config", None), "max_local_cpu_size", "?"),
                )
                return None
            time.sleep(0.05)

    return bounded


def _optional(place: str, put: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's ``batched_submit_put_task``: what it raises, as where it cannot make room, costs a hit, no engine."""

    @functools.wraps(put)
    def optional(keys: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return put(keys, *args, **kwargs)
        except Exception:
            logger.exception("%d chunks could not be given to %s; they are not cached there", len(keys), place)
            return None

    return optional


def _answered(engine: Any, place: str, backend: Any) -> Callable[..., Any]:
    """A backend's question of asynchronous loading: how many chunks it has, none if it does not say in time.

    Without an answer LMCache tells the scheduler nothing, which releases before 0.4.2 wait for without an end.
    """
    ask = backend.batched_async_contains

    @functools.wraps(ask)
    async def answered(lookup_id: str, keys: list[Any], pin: bool = False) -> int:
        def unpin(found: Any) -> None:
            for key in keys[: int(found or 0)] if pin else ():
                backend.unpin(key)

        try:
            return int(await _in_time(engine, ask(lookup_id, keys, pin), unpin) or 0)
        except TimeoutError:
            logger.error("request %s: %s has not answered in time: a miss", lookup_id, place)
        except Exception:
            logger.exception("request %s: %s was asked in vain: a miss", lookup_id, place)
        return 0

    return answered


def _checked(engine: Any, place: str, prefetch: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's prefetch for asynchronous loading, which then reports what has come, whatever went wrong."""

    @functools.wraps(prefetch)
    async def checked(lookup_id: str, keys: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        objects = Objects(engine)
        try:
            wanted = objects.whole(place, keys)
            coming = prefetch(lookup_id, wanted, *args, **kwargs) if wanted else None
            got = list(await _in_time(engine, coming, _release_any) or ()) if coming is not None else []
        except TimeoutError:
            logger.error("request %s: %s has not answered in time; its tokens are recomputed", lookup_id, place)
            return []
        except Exception:
            logger.exception("request %s: the prefetch from %s failed; its tokens are recomputed", lookup_id, place)
            return []
        sound = list(itertools.takewhile(objects.fits, got))
        sound = sound[: len(objects.whole(place, wanted[: len(sound)], read=True))]
        release(got[len(sound) :])
        return sound

    return checked


def _release_any(memory_objs: Any) -> None:
    release(memory_objs or ())


async def _in_time(engine: Any, coming: Coroutine[Any, Any, Any], give_back: Callable[[Any], None]) -> Any:
    """Await what a store gives; TimeoutError once the scheduler no longer waits, and what comes then is given back."""
    task = asyncio.ensure_future(coming)
    done, _ = await asyncio.wait({task}, timeout=answer_seconds(engine))
    if not done:

        def late(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and task.exception() is None:
                give_back(task.result())

        task.add_done_callback(late)
        raise TimeoutError
    return task.result()
