"""A probe's result file, parsed into types: nothing is lost, and a result that breaks the agreed form is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gaudi_patch.smoke.counted import Asked, BadResultError, Counters, Failure

REQUEST = {"request": "hit", "prompt": 300, "vllm": 0, "lmcache": 256, "seconds": 0.25, "answer": [7, 8]}


def test_counters_are_published_as_they_came_and_read_by_what_they_are() -> None:
    document = {
        "cases": 2,
        "engine_start_seconds": 1.5,
        "store of 17 objects": {"graph_launches": 3, "note": "text"},
        "answers": {"requests": [REQUEST], "engine_start_seconds": 2.5},
        "memory": {"requests": 5, "hits": 1},  # here it is their number
        "other": [1],
    }
    read = Counters.read(document)
    assert read.document == document
    assert read.totals == {"cases": 2}
    assert read.workloads["store of 17 objects"] == {"graph_launches": 3}
    assert read.workloads["memory"] == {"requests": 5, "hits": 1}
    assert read.requests == {"answers": (Asked("hit", 300, 0, 256, 0.25, (7, 8)),)}


@pytest.mark.parametrize(
    "spoiled",
    [{"request": 1}, {"prompt": "300"}, {"vllm": None}, {"lmcache": 1.5}, {"seconds": "0"}, {"answer": [7, "8"]}],
)
def test_a_request_that_is_not_as_agreed_is_refused(spoiled: dict[str, Any]) -> None:
    with pytest.raises(BadResultError, match="wrong type"):
        Counters.read({"answers": {"requests": [REQUEST | spoiled]}})


@pytest.mark.parametrize("document", [None, [], "text", {"check": "a"}, {"message": "b"}, {"check": 1, "message": "b"}])
def test_a_failure_without_a_name_and_a_message_is_refused(document: object) -> None:
    with pytest.raises(BadResultError, match="wrong type"):
        Failure.read(document)


def test_a_failure_keeps_what_else_the_probe_says() -> None:
    document = {"check": "a", "message": "b", "slot": 3}
    assert Failure.read(document) == Failure("a", "b", {"slot": 3})
    assert Failure.read(document).to_json() == document
