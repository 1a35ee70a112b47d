"""Chunks prefetched by asynchronous loading are released once, whatever a load does with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lmcache.gaudi.compat import taken_once


class Kind(Enum):
    LOADING = 1


class Status(Enum):
    ONGOING = 1
    DONE = 2
    NOT_FOUND = 3


class Events:
    """LMCache's event manager of 0.4.1 to 0.5.6, whose events are not removed by a load."""

    def __init__(self) -> None:
        self.done: dict[str, Future[Any]] = {}

    def get_event_status(self, kind: Kind, name: str) -> Status:
        return Status.DONE if name in self.done else Status.NOT_FOUND

    def get_event_future(self, kind: Kind, name: str) -> Future[Any]:
        return self.done[name]

    def pop_event(self, kind: Kind, name: str) -> Future[Any]:
        return self.done.pop(name)


class Object:
    def __init__(self, references: int = 1, pins: int = 1) -> None:
        self.references, self.pins = references, pins

    def get_ref_count(self) -> int:
        return self.references

    def ref_count_down(self) -> None:
        assert self.references > 0, "released once more: the memory may be another's"
        self.references -= 1

    @property
    def is_pinned(self) -> bool:
        return self.pins > 0

    def unpin(self) -> None:
        self.pins -= 1


@pytest.fixture(autouse=True)
def event_manager() -> Iterator[None]:
    module = ModuleType("lmcache.v1.event_manager")
    vars(module).update(EventType=Kind, EventStatus=Status)
    sys.modules[module.__name__] = module
    yield
    del sys.modules[module.__name__]


def take(self: Any, wanted: list[str], **given: Any) -> Any:
    """Return the chunks of ``wanted``, as LMCache does, and release the other prefetched chunks."""
    future = self.event_manager.get_event_future(Kind.LOADING, given["req_id"])
    try:
        found = {key: memory_obj for tier in future.result() for key, memory_obj in tier}
    except RuntimeError:
        return [], 0
    for key, memory_obj in found.items():
        if key not in wanted:
            memory_obj.ref_count_down()
    return [(key, found[key], 0, 0) for key in wanted if key in found], 0


def releasing(self: Any, memory_obj: Any) -> None:
    """Release as ``retrieve`` does from 0.5.2 on."""
    memory_obj.unpin()
    memory_obj.ref_count_down()


def keeping(self: Any, memory_obj: Any) -> None:
    """Keep as ``retrieve`` does up to 0.5.1, in asynchronous loading."""


def engine(*tiers: list[tuple[str, Object]]) -> Any:
    events = Events()
    events.done["r"] = Future()
    events.done["r"].set_result(list(tiers))
    return SimpleNamespace(event_manager=events)


def test_a_load_takes_the_prefetch_out_of_the_books() -> None:
    objects = {"a": Object(), "b": Object()}
    made = engine(list(objects.items()))
    chunks, _ = taken_once(take, releasing, lambda engine: True)(made, ["a", "b"], req_id="r")
    assert [chunk[0] for chunk in chunks] == ["a", "b"]
    assert made.event_manager.get_event_status(Kind.LOADING, "r") == Status.NOT_FOUND
    assert [(one.references, one.pins) for one in objects.values()] == [(1, 1)] * 2, "those are the load's to release"


def test_a_chunk_that_the_load_leaves_out_loses_its_pin_with_its_reference() -> None:
    had, loaded = Object(references=2), Object(references=2)
    taken_once(take, releasing, lambda engine: True)(engine([("had", had), ("loaded", loaded)]), ["loaded"], req_id="r")
    assert (had.references, had.pins) == (1, 0)
    assert (loaded.references, loaded.pins) == (2, 1)


def test_what_a_load_does_not_release_itself_is_left_for_the_end_of_the_step() -> None:
    had, loaded = Object(references=2), Object(references=2)
    made = engine([("had", had), ("loaded", loaded)])
    taken_once(take, keeping, lambda engine: True)(made, ["loaded"], req_id="r")
    assert made.event_manager.get_event_future(Kind.LOADING, "r").result() == [[("loaded", loaded)]]
    assert (had.references, had.pins) == (1, 0)


def test_what_the_answer_to_the_lookup_has_released_is_not_released_by_the_load() -> None:
    short, released = Object(references=2), Object(references=0, pins=0)
    made = engine([("a", short)], [("c", released)])
    chunks, _ = taken_once(take, releasing, lambda engine: True)(made, ["a", "c"], req_id="r")
    assert [chunk[0] for chunk in chunks] == ["a"], "freed memory is not loaded from"


def test_a_prefetch_that_failed_is_left_to_lmcache() -> None:
    made = engine()
    made.event_manager.done["r"] = Future()
    made.event_manager.done["r"].set_exception(RuntimeError("on purpose"))
    assert taken_once(take, releasing, lambda engine: True)(made, ["a"], req_id="r") == ([], 0)


def test_other_devices_and_other_releases_are_left_alone() -> None:
    made = engine([("a", Object())])
    taken_once(take, releasing, lambda engine: False)(made, ["a"], req_id="r")
    assert made.event_manager.get_event_status(Kind.LOADING, "r") == Status.DONE
    older = SimpleNamespace(event_manager=object())
    assert taken_once(lambda self, **given: "its own", releasing, lambda engine: True)(older, req_id="r") == "its own"
