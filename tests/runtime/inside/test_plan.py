"""plan.py: the packing of a request, compared with a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmcache.gaudi.plan import group_sizes, plan

settings.register_profile("runtime", derandomize=True, deadline=None, database=None, max_examples=300)
settings.load_profile("runtime")


@given(chunks=st.integers(0, 400), bit=st.integers(0, 5))
def test_group_sizes_are_powers_of_two_that_sum_up_with_few_launches(chunks: int, bit: int) -> None:
    largest = 1 << bit
    sizes = list(group_sizes(chunks, largest))
    assert sum(sizes) == chunks
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) <= {1 << n for n in range(bit + 1)}
    assert len(sizes) == chunks // largest + bin(chunks % largest).count("1")


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[tuple[int, int]], np.ndarray, int, int, int, tuple[int, int] | None]:
    chunk = draw(st.sampled_from([1, 4, 16]))
    tokens = draw(st.integers(0, 150))
    first = draw(st.integers(0, tokens))
    spans = [(s, min(s + chunk, tokens)) for s in range(first // chunk * chunk, tokens, chunk)]
    capacity = 200
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    slots = rng.permutation(capacity)[:tokens].astype(np.int64)
    for position in draw(st.lists(st.integers(0, max(0, tokens - 1)), max_size=20)):
        if position < tokens:
            slots[position] = -1
    pad = draw(st.sampled_from([None, (200, 8)]))
    return spans, slots, chunk, draw(st.sampled_from([1, 2, 8])), draw(st.integers(0, tokens)), pad


@given(requests())
def test_every_live_token_travels_once_and_nothing_else(
    request: tuple[list[tuple[int, int]], np.ndarray, int, int, int, tuple[int, int] | None],
) -> None:
    spans, slots, chunk, largest, skip, pad = request
    groups = plan(spans, slots, chunk=chunk, largest=largest, capacity=200, pad=pad, skip=skip)
    wanted = [
        (number, position - start)
        for number, (start, end) in enumerate(spans)
        for position in range(start, end)
        if position >= skip and slots[position] >= 0
    ]
    travelled = []
    for number, group in enumerate(groups):
        assert len(group.index) == group.chunks * chunk
        assert group.padding == 0 or number == len(groups) - 1
        rows = [(run.obj, run.start + i, run.row + i) for run in group.runs for i in range(run.count)]
        assert [row for _, _, row in rows] == list(range(group.rows))
        for obj, token, row in rows:
            assert group.index[row] == slots[spans[obj][0] + token]
        travelled += [(obj, token) for obj, token, _ in rows]
        filler = group.index[group.rows :]
        assert group.sink == (pad is not None)
        if pad is None:
            assert all(filler == group.index[group.rows - 1])
        else:
            assert all((filler >= 200) & (filler < 208))
    assert travelled == wanted


def test_a_slot_beyond_the_cache_is_an_error() -> None:
    with pytest.raises(IndexError, match="slot 200 is outside the KV cache of 200 slots"):
        plan([(0, 2)], np.array([3, 200]), chunk=4, largest=1, capacity=200, pad=(200, 8))


def test_a_slot_beyond_32_bits_is_an_error() -> None:
    with pytest.raises(IndexError, match="outside the KV cache"):
        plan([(0, 2)], np.array([3, 2**32 + 1]), chunk=4, largest=1, capacity=200, pad=None)


def test_tokens_beyond_the_slot_mapping_are_an_error() -> None:
    with pytest.raises(IndexError, match=r"tokens 4\.\.8 are outside the slot mapping of 6 tokens"):
        plan([(0, 4), (4, 8)], np.arange(6), chunk=4, largest=1, capacity=200, pad=None)
