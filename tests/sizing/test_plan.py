"""The sizing calculation: a token, a prompt, a pool and a host, compared with figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaudi_patch.sizing import plan
from gaudi_patch.sizing.plan import GIB, Load, Sizing, size
from gaudi_patch.sizing.shapes import Shape, known


def shape(name: str = "meta-llama/Llama-3.1-8B-Instruct") -> Shape:
    found = known(name)
    assert found is not None
    return found


def sized(name: str, context: int, **load: object) -> Sizing:
    return size(shape(name), Load(context, **load))  # type: ignore[arg-type]


LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
DEEPSEEK = "deepseek-ai/DeepSeek-V3"


@pytest.mark.parametrize(
    ("name", "ranks", "token", "prompt_gib", "host_gib"),
    [(LLAMA_8B, 1, 131_072, 16, 16), (LLAMA_70B, 8, 40_960, 5, 40), (LLAMA_70B, 4, 81_920, 10, 40)],
)
def test_131072_tokens_take_what_is_worked_out_by_hand(
    name: str, ranks: int, token: int, prompt_gib: int, host_gib: int
) -> None:
    found = sized(name, 131_072, ranks=ranks)
    assert (found.token, found.prompt, found.prompt_host) == (token, prompt_gib * GIB, host_gib * GIB)


def test_mla_is_the_same_in_every_rank_and_kept_by_one() -> None:
    one, eight = sized(DEEPSEEK, 131_072), sized(DEEPSEEK, 131_072, ranks=8)
    assert one.token == eight.token == 61 * 576 * 2
    assert (eight.pools, eight.pinned, eight.world) == (1, eight.pool, 8)


def test_heads_are_repeated_where_there_are_more_ranks_than_heads() -> None:
    assert sized(LLAMA_70B, 4096, ranks=16).token == sized(LLAMA_70B, 4096, ranks=8).token
    assert sized(LLAMA_70B, 4096, ranks=16).pools == 16


def test_layers_are_divided_among_the_stages_of_a_pipeline() -> None:
    found = sized(LLAMA_70B, 4096, ranks=8, pipeline=2)
    assert found.token == 20_480
    assert found.pools == 16


def test_one_byte_a_value_halves_it() -> None:
    assert sized(LLAMA_8B, 4096, width=1).token * 2 == sized(LLAMA_8B, 4096).token


def test_only_whole_chunks_count() -> None:
    assert sized(LLAMA_8B, 1000).prompt == 768 * 131_072
    assert sized(LLAMA_8B, 100).prompt == 0
    assert sized(LLAMA_8B, 100).pool_gb > 0, "LMCache refuses a pool of nothing"


@pytest.mark.parametrize("context", [*plan.STEPS, 1000, 5000, 131_071])
@pytest.mark.parametrize("prompts", [1, 2, 20])
@pytest.mark.parametrize(("name", "ranks"), [(LLAMA_8B, 1), (LLAMA_70B, 8), (DEEPSEEK, 8)])
def test_a_pool_holds_the_prompts_that_it_is_for(context: int, prompts: int, name: str, ranks: int) -> None:
    found = sized(name, context, prompts=prompts, ranks=ranks)
    assert found.pool_gb * GIB >= found.prompt * prompts
    assert found.pool_gb * GIB <= found.prompt * prompts * (1 + plan.SPARE) + 0.1 * GIB + 1
    held = plan.fits(shape(name), found.load, found.pool_gb)
    assert held >= context // 256 * 256 * prompts


def test_the_pool_of_before_holds_40960_tokens_of_an_8b_model() -> None:
    """The reason why no part of a 131,072-token prompt was found again in the 5 GB of every older recipe."""
    assert plan.fits(shape(), Load(131_072), 5.0) == 40_960


def test_host_memory_is_pools_ranks_and_weights() -> None:
    found = sized(LLAMA_70B, 131_072, ranks=8)
    assert found.host == found.pool * 8 + 8 * plan.RANK_OVERHEAD + 141_107_000_000
    unknown = size(replace(shape(LLAMA_70B), weights=None), Load(131_072, 8))
    assert unknown.host == found.pool * 8 + 8 * plan.RANK_OVERHEAD
    assert (unknown.card_tokens, unknown.sequences, unknown.max_num_seqs) == (None, None, None)


def test_what_fits_on_the_cards_follows_vllm_gaudis_rule() -> None:
    """0.9 of the free memory for vLLM, 0.9 of that besides graphs, in KV per token."""
    found = sized(LLAMA_8B, 131_072)
    free = 128 * GIB - 2 * GIB - 16_060_522_496
    assert found.card_tokens == int(free * 0.9 * 0.9 / 131_072)
    assert (found.sequences, found.max_num_seqs) == (5, 4)
    assert sized(LLAMA_8B, 131_072, card="gaudi2").sequences == 4
    assert sized(LLAMA_8B, 2048).max_num_seqs is None, "vLLM's own default fits"
    full = sized("meta-llama/Llama-3.1-405B-Instruct", 131_072)
    assert (full.card_tokens, full.sequences, full.max_num_seqs) == (0, 0, 1)


def test_a_time_limit_grows_with_the_prompt() -> None:
    assert sized(LLAMA_8B, 2048).timeout == plan.SHORTEST_TIMEOUT
    assert sized(LLAMA_70B, 131_072, ranks=8).timeout == 43


def test_the_formula_gives_the_number() -> None:
    for found in (sized(LLAMA_8B, 2048), sized(LLAMA_70B, 2048, ranks=8, pipeline=2), sized(DEEPSEEK, 2048, ranks=8)):
        left, _, right = plan.sentence(found).partition(" = ")
        value = 1
        for factor in left.split(" x "):
            value *= int(factor.split()[0])
        assert value == found.token == int(right.split()[0].replace(",", ""))


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (5 * GIB, "5 GiB"), (2**40, "1 TiB"), (100 * GIB, "100 GiB")]
)
def test_sizes_are_read_by_people(number: int, words: str) -> None:
    assert plan.human(number) == words
