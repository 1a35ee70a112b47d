"""The shapes and lengths that are measured, and those that do not fit."""

from __future__ import annotations

import pytest

from gaudi_patch.bench import workload
from gaudi_patch.errors import Exit, GaudiPatchError


def test_a_token_of_each_shape_has_the_bytes_that_its_model_gives_it() -> None:
    sizes = {shape.name: shape.token_bytes for shape in workload.SHAPES}
    # Llama-3.1-8B: 2 x 32 x 8 x 128 x 2; 70B: 2 x 80 x 8 x 128 x 2 over 8 ranks; DeepSeek-V3: 61 x 576 x 2.
    assert sizes == {"8b": 131072, "70b-tp8": 40960, "mla": 70272}


def test_lengths_are_read_in_tokens_and_in_k_each_once_and_ascending() -> None:
    assert workload.contexts_of("8K, 2k,1000 2048") == [1000, 2048, 8192]


@pytest.mark.parametrize("text", ["", "2M", "-2K", "0", "2K,x", "511", "1e3", "9999999999"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(GaudiPatchError, match="--contexts") as caught:
        workload.contexts_of(text)
    assert caught.value.exit is Exit.USAGE


@pytest.mark.parametrize("text", ["", "8b,9b", "all"])
def test_what_is_no_shape_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(GaudiPatchError, match="8b, 70b-tp8, mla"):
        workload.shapes_of(text)


def test_shapes_come_in_the_order_of_the_table_each_once() -> None:
    assert [shape.name for shape in workload.shapes_of("mla,8b,mla")] == ["8b", "mla"]


def test_memory_holds_the_longest_request_or_as_many_whole_chunks_as_it_can() -> None:
    for shape in workload.SHAPES:
        limit = workload.needed_bytes(shape, 8192)
        assert workload.held_tokens(shape, [2048, 8100], limit) == 8100
        assert workload.held_tokens(shape, [2048, 8192], limit) == 8192
        assert workload.held_tokens(shape, [2048, 32768], limit) == 8192
        assert workload.held_tokens(shape, [2048, 32768], limit - 1) == 8192 - workload.CHUNK


def test_memory_for_less_than_eight_chunks_is_too_little_unless_no_request_is_longer() -> None:
    (shape,) = workload.shapes_of("8b")
    limit = workload.needed_bytes(shape, 2048) - 1
    assert workload.held_tokens(shape, [512, 1024], limit) == 1024
    assert workload.held_tokens(shape, [512, 4096], limit) == 0
    first, second = workload.none_fits(shape, [512, 4096], limit)
    assert (first.shape, first.tokens, second.tokens) == ("8b", 512, 4096)
    assert first.reason == second.reason == "needs 3.8 GiB of memory, 3.7 GiB are allowed"


def test_caches_and_objects_of_the_request_are_in_what_is_needed() -> None:
    for shape in workload.SHAPES:
        assert workload.needed_bytes(shape, 8192) - workload.needed_bytes(shape, 0) == 2 * 8192 * shape.token_bytes


def test_lengths_are_shown_as_they_are_given() -> None:
    assert [workload.length_text(tokens) for tokens in (2048, 262144, 1000)] == ["2K", "256K", "1000"]
