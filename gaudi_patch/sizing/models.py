"""Models that are sized without their files, by the figures of vllm-gaudi and of their authors.

Layers, heads, weight sizes and longest contexts: vllm-gaudi v0.26.0, .cd/server/settings_vllm.csv. The DeepSeek, Qwen3
and OPT rows follow their authors' descriptions, and were not compared with their config.json. A config.json overrides
this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """KV heads and head size, or 0 heads and the width of MLA's latent; weights in bytes; context in tokens."""

    names: tuple[str, ...]
    layers: int
    kv_heads: int
    head_size: int
    weights: int
    longest: int


_LLAMA_70B = ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct")
_DISTILLED = "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"
_DEEPSEEK = ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528")

TABLE = (
    Row(("meta-llama/Llama-3.1-8B-Instruct",), 32, 8, 128, 16_060_522_496, 131_072),
    Row((*_LLAMA_70B, _DISTILLED), 80, 8, 128, 141_107_000_000, 131_072),
    Row(("meta-llama/Llama-3.1-405B-Instruct",), 126, 8, 128, 811_707_000_000, 131_072),
    Row(("meta-llama/Llama-3.2-1B-Instruct",), 16, 8, 64, 2_471_645_608, 131_072),
    Row(("meta-llama/Llama-3.2-3B-Instruct",), 28, 8, 128, 6_425_499_648, 131_072),
    Row(("mistralai/Mistral-7B-Instruct-v0.2",), 32, 8, 128, 14_483_464_192, 32_768),
    Row(("mistralai/Mixtral-8x7B-Instruct-v0.1",), 32, 8, 128, 93_405_585_408, 32_768),
    Row(("mistralai/Mixtral-8x22B-Instruct-v0.1",), 56, 8, 128, 281_260_000_000, 65_536),
    Row(("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"), 28, 4, 128, 15_231_233_024, 32_768),
    Row(("Qwen/Qwen2.5-14B-Instruct",), 48, 8, 128, 29_540_067_328, 32_768),
    Row(("Qwen/Qwen2.5-32B-Instruct",), 64, 8, 128, 65_527_752_704, 32_768),
    Row(("Qwen/Qwen2.5-72B-Instruct",), 80, 8, 128, 145_412_000_000, 32_768),
    Row(("Qwen/Qwen3-30B-A3B-Instruct-2507",), 48, 4, 128, 61_064_245_248, 262_144),
    Row(_DEEPSEEK, 61, 0, 512 + 64, 688_600_000_000, 163_840),
    Row(("deepseek-ai/DeepSeek-V2-Lite-Chat",), 27, 0, 512 + 64, 31_400_000_000, 163_840),
    Row(("facebook/opt-125m",), 12, 12, 64, 250_000_000, 2_048),
)


def find(name: str) -> Row | None:
    """Return the row of a model by its name in vLLM; None if the table has none."""
    return next((row for row in TABLE if name in row.names), None)


def names() -> Iterator[str]:
    """Yield every name in the table."""
    for row in TABLE:
        yield from row.names
