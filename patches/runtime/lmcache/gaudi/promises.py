# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""In-process loads: what a lookup promises to vLLM is in host memory before it is promised.

A lookup says how many tokens are cached; vLLM then gives them blocks and does not compute them. On a GPU what cannot be
loaded afterwards is reported and recomputed. vllm-gaudi passes no such report on in steps with a forward pass, so the
load must not fail: the lookup itself brings every chunk into host memory, checks it and keeps a reference until the
load. A chunk that is lost, cut short or does not fit into host memory ends the hit there, which is a miss.

Hosts without an HPU are unchanged.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..logging import init_logger
from . import compat
from .backends import HOST, answer_seconds, end_waits, release
from .device import is_available
from .objects import Objects
from .patience import Patience

__all__ = ["Promises", "keep_promises"]

logger = init_logger(__name__)

R = TypeVar("R")
Chunk = tuple[int, int, Any]  # first token, one past the last, key


class Promises:
    """Chunks in host memory that were promised to vLLM, by request.

    Args:
        engine: LMCache's engine.

    Attributes:
        loading: A promise is being loaded: LMCache's health does not matter, all of it is in host memory.
        asked: The request of the last lookup that asked all stores; it may be overdue.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._held: dict[str, tuple[float, dict[Any, Any]]] = {}
        self._lock = threading.Lock()
        self.loading = False
        self.asked: str | None = None
        self._patience = Patience(answer_seconds(engine))
        self._forgotten = compat.kept_seconds(engine.config)

    def ask(self, function: Callable[[], R], otherwise: R, meanwhile: Callable[[], R], late: Callable[[], None]) -> R:
        """Return what ``function`` returns; see :meth:`Patience.call` for stores that do not answer in time."""
        if set(self._engine.storage_manager.storage_backends) <= {HOST}:
            return function()
        return self._patience.call(function, otherwise, meanwhile, late)

    def holds(self, request: str | None) -> bool:
        """Return whether something is held for a request."""
        return request in self._held

    def keep(self, request: str, chunks: Sequence[Chunk], search_range: Any = None) -> int:
        """Bring a request's chunks into host memory and hold them there.

        Args:
            request: The lookup's id, which is the request's.
            chunks: What the lookup has found, from the first token on.
            search_range: LMCache's names of the backends that may serve it.

        Returns:
            How many tokens are held: the end of the last chunk before the first that is not to be had.
        """
        self.drop(request)
        # A copy, made at once: the engine's own thread takes what it loads meanwhile.
        for name, (since, chunks_held) in list(self._held.items()):
            if time.monotonic() - since > self._forgotten:
                logger.warning("request %s did not fetch its %d chunks; they are released", name, len(chunks_held))
                self.drop(name)
        held = self.collect(request, chunks, search_range)
        entry = time.monotonic(), {key: memory_obj for _, _, key, memory_obj in held}
        with self._lock:
            self._held[request] = entry
        return held[-1][1] if held else 0

    def collect(self, request: str | None, chunks: Sequence[Chunk], search_range: Any = None) -> list[Any]:
        """Return ``(start, end, key, memory object)``, with a reference, of the leading chunks that are to be had."""
        objects = Objects(self._engine)
        places = self._places(request, chunks, search_range)
        found: list[Any] = []
        for place, run in itertools.groupby(zip(chunks, places, strict=True), key=lambda pair: pair[1]):
            wanted = [chunk for chunk, _ in run]
            if place is None:
                break
            got = objects.get(place, wanted)
            found += got
            if len(got) < len(wanted):
                logger.warning(
                    "request %s: %d chunks were found in %s, %d could be loaded; the rest is recomputed",
                    request,
                    len(wanted),
                    place,
                    len(got),
                )
                break
        return found

    def take(self, request: str | None) -> dict[Any, Any] | None:
        """Hand over what is held for a request, with its references; None if nothing was promised."""
        with self._lock:
            entry = self._held.pop(request, None) if request is not None else None
        return entry[1] if entry else None

    def share(self, chunks: Sequence[Chunk]) -> list[Any]:
        """Return ``(start, end, key, memory object)``, with a reference, of the leading chunks that anybody holds.

        0.3.7 looks up under a name of its own, so that a load does not know what was promised for it.
        """
        shared = []
        with self._lock:
            holders = [held for _, held in self._held.values()]
            for start, end, key in chunks:
                memory_obj = next((held[key] for held in holders if key in held), None)
                if memory_obj is None:
                    break
                memory_obj.ref_count_up()
                shared.append((start, end, key, memory_obj))
        return shared

    def drop(self, request: str) -> None:
        """Release what is held for a request, if anything."""
        release((self.take(request) or {}).values())

    def _places(self, request: str | None, chunks: Sequence[Chunk], search_range: Any) -> list[str | None]:
        """Return the backend of each chunk: as the lookup has noted it, else asked again."""
        pins = self._engine.lookup_pins.get(request) if request is not None else None
        if isinstance(pins, dict):  # before 0.3.12 a list of keys
            noted = {key: place for place, keys in pins.items() for key in keys}
            return [noted.get(key) for _, _, key in chunks]
        contains = self._engine.storage_manager.contains
        return [contains(key, search_range) for _, _, key in chunks]


def keep_promises(engine: type) -> type:
    """Decorate ``LMCacheEngine``: a lookup promises what is in host memory, and a load takes it from there.

    Args:
        engine: The class.

    Returns:
        The same class; its instances behave differently on HPU only.
    """

    def started(original: Callable[..., None]) -> Callable[..., None]:
        def start(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            _prepare(self)

        return start

    def lookup(original: Callable[..., int]) -> Callable[..., int]:
        signature = inspect.signature(original)

        def promise(self: Any, *args: Any, **kwargs: Any) -> int:
            promises = _promises(self)
            if promises is None:
                return original(self, *args, **kwargs)
            given = signature.bind(self, *args, **kwargs).arguments
            request = given.get("lookup_id")

            def look(places: Any) -> int:
                try:
                    found = original(**{**given, "search_range": places})
                    if not found or request is None or not given.get("pin") or self.use_layerwise:
                        return int(found or 0)
                    chunks = self.token_database.process_tokens(
                        **{name: given.get(name) for name in ("tokens", "hashes", "offsets", "request_configs")}
                    )
                    chunks = [chunk for chunk in chunks if chunk[1] <= found]
                    kept = promises.keep(request, chunks, places)
                except Exception:  # it would end the thread that answers lookups
                    logger.exception("the lookup of request %s failed: a miss", request)
                    kept = 0
                if not kept:  # otherwise it would never be loaded or released
                    forget()
                return kept

            def look_everywhere() -> int:
                promises.asked = request
                return look(given.get("search_range"))

            def look_in_host_memory() -> int:
                # Not for the overdue request: its chunks are released once its answer comes.
                may = given.get("search_range") is None or HOST in given["search_range"]
                return look([HOST]) if may and request != promises.asked else 0

            def forget() -> None:
                if request is not None:
                    _release_pins(self, request)

            return promises.ask(look_everywhere, 0, look_in_host_memory, forget)

        return promise

    def retrieve(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(self: Any, *args: Any, **kwargs: Any) -> Any:
            promises = _promises(self)
            if promises is None:
                return original(self, *args, **kwargs)
            promises.loading = promises.holds(kwargs.get("req_id"))
            try:
                return original(self, *args, **kwargs)
            finally:
                promises.loading = False

        return load

    def healthy(original: Callable[..., bool]) -> Callable[..., bool]:
        def is_healthy(self: Any) -> bool:
            promises = _promises(self)
            return bool(promises is not None and promises.loading) or original(self)

        return is_healthy

    def process(original: Callable[..., Any]) -> Callable[..., Any]:
        def process_tokens(self: Any, tokens: Any, mask: Any, ret_mask: Any, **kwargs: Any) -> Any:
            promises = _promises(self)
            if promises is None:
                return original(self, tokens, mask, ret_mask, **kwargs)
            return _load(self, promises, tokens, mask, ret_mask, **kwargs)

        return process_tokens

    retrieve_as_released = engine.__dict__.get("retrieve")

    def asynchronous(original: Callable[..., Any]) -> Callable[..., Any]:
        assert retrieve_as_released is not None
        return compat.taken_once(original, retrieve_as_released, lambda engine: _promises(engine) is not None)

    def unpin(original: Callable[..., None]) -> Callable[..., None]:
        def lookup_unpin(self: Any, lookups: Any) -> None:
            if (promises := _promises(self)) is not None:
                for request in [lookups] if isinstance(lookups, str) else lookups:
                    promises.drop(request)
            original(self, lookups)

        return lookup_unpin

    wrappers: dict[str, Callable[[Any], Any]] = {
        "__init__": started,
        "post_init": started,
        "lookup": lookup,
        "retrieve": retrieve,
        "is_healthy": healthy,
        "_process_tokens_internal": process,
        "_async_process_tokens_internal": asynchronous,
        "lookup_unpin": unpin,
    }
    for name, wrapper in wrappers.items():
        original = engine.__dict__.get(name)
        if original is not None:  # releases differ in what they have
            setattr(engine, name, functools.wraps(original)(wrapper(original)))
    return engine


def _load(engine: Any, promises: Promises, tokens: Any, mask: Any, ret_mask: Any, **kwargs: Any) -> Any:
    """What ``_process_tokens_internal`` does, from what is held; the rest is looked for and checked here and now."""
    request = kwargs.get("req_id")
    chunks = list(
        engine.token_database.process_tokens(tokens=tokens, mask=mask, request_configs=kwargs.get("request_configs"))
    )
    held = promises.take(request)
    if held is None or any(key not in held for _, _, key in chunks):
        release((held or {}).values())
        shared = promises.share(chunks)
        rest = chunks[len(shared) :]
        # The engine itself is blocked here, so it waits no longer than a lookup would.
        late: list[Any] = []

        def collect() -> list[Any]:
            late.extend(promises.collect(None, rest))
            return late

        def collect_from_host_memory() -> list[Any]:
            return promises.collect(None, rest, [HOST])

        got: list[Any] = []
        if rest:
            got = promises.ask(collect, [], collect_from_host_memory, lambda: release(entry[3] for entry in late))
        held = {key: memory_obj for _, _, key, memory_obj in (*shared, *got)}
    loaded = []
    for start, end, key in chunks:
        memory_obj = held.pop(key, None)
        if memory_obj is None:
            break
        loaded.append((key, memory_obj, start, end))
        ret_mask[start:end] = True
    release(held.values())
    return loaded, sum(memory_obj.get_size() for _, memory_obj, _, _ in loaded)


def _prepare(engine: Any) -> None:
    """Once the backends exist, bound their endless loops and check what they prefetch."""
    manager = getattr(engine, "storage_manager", None)
    if manager is None or getattr(engine, "gpu_connector", None) is None or not is_available():
        return
    if "gaudi_promises" in engine.__dict__:
        return
    engine.gaudi_promises = Promises(engine)
    end_waits(engine, manager.storage_backends)


def _promises(engine: Any) -> Promises | None:
    """Return the engine's promises; None without an HPU, and for a decoder of disaggregated serving.

    A prefiller has pushed a decoder's chunks into host memory, where nothing but their load removes them. So they are
    sure to be there. PDBackend gives them without a reference of their own, and its buffer need not have room for more.
    """
    found: Promises | None = engine.__dict__.get("gaudi_promises")
    return None if getattr(engine, "remove_after_retrieve", False) else found


def _release_pins(engine: Any, request: str) -> None:
    engine.lookup_unpin([request] if compat.unpins_lists(engine) else request)
