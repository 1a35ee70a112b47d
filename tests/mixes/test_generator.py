"""A number always gives the same mix; the mixes reach the intended cases and say what a cache must have."""

from __future__ import annotations

import pytest

from tests.mixes import generator
from tests.mixes.generator import Request, Stored

SIZES = {"chunk": 64, "block": 16, "longest": 448}


def test_a_mix_follows_from_its_number_alone() -> None:
    assert generator.mix(7, **SIZES) == generator.mix(7, **SIZES)
    assert generator.mix(7, **SIZES) != generator.mix(8, **SIZES)


def test_no_two_mixes_have_a_chunk_in_common() -> None:
    starts: dict[tuple[int, ...], int] = {}
    for number in range(300):
        for request in generator.mix(number, **SIZES):
            if len(request.tokens) >= 64:
                assert starts.setdefault(request.tokens[:64], number) == number


def test_a_thousand_mixes_have_all_that_they_are_for() -> None:
    seen = {"a local prefix": 0, "inside a chunk": 0, "a preemption": 0, "steps": 0, "a hit": 0, "a whole prompt": 0}
    others = dict.fromkeys(("another salt", "another adapter"), 0)
    for number in range(1000):
        stored, before = Stored(64, tails=True), []
        for request in generator.mix(number, **SIZES):
            assert 1 <= len(request.tokens) <= 448
            assert request.local % 16 == 0
            assert request.local < len(request.tokens)
            due = stored.due(request)
            seen["a local prefix"] += 0 < request.local < due
            seen["inside a chunk"] += 0 < request.local < due and request.local % 64 > 0
            seen["a preemption"] += request.outputs > 0
            seen["steps"] += request.step < len(request.tokens)
            seen["a hit"] += due > request.local
            seen["a whole prompt"] += due == len(request.tokens)
            for other in before:
                same = len(request.tokens) >= 64 and request.tokens[:64] == other.tokens[:64]
                others["another salt"] += same and request.salt != other.salt
                others["another adapter"] += same and request.adapter != other.adapter
            before.append(request)
            stored.note(request, request.tokens)
    assert min(*seen.values(), *others.values()) >= 100, (seen, others)


@pytest.mark.parametrize(
    ("tails", "request_", "due"),
    [
        (False, Request((1, 2, 3, 4, 5)), 4),
        (True, Request((1, 2, 3, 4, 5)), 5),
        (True, Request((1, 2, 3, 4, 5, 6)), 4),
        (True, Request((1, 2, 3, 4)), 4),
        (False, Request((1, 2, 3, 9)), 2),
        (False, Request((9, 2, 3, 4)), 0),
        (True, Request((1, 2, 3, 4, 5), salt="t"), 0),
        (True, Request((1, 2, 3, 4, 5), adapter="a"), 0),
    ],
)
def test_what_is_due_are_whole_chunks_of_the_same_identity_and_the_same_prompt_with_its_tail(
    tails: bool, request_: Request, due: int
) -> None:
    stored = Stored(2, tails=tails)
    stored.note(Request(()), (1, 2, 3, 4, 5))
    assert stored.due(request_) == due
