"""The figures of the guide to long contexts: each equals the result of its formula."""

from __future__ import annotations

import re

from gaudi_patch import guides
from gaudi_patch.bench.hosts import HOSTS
from gaudi_patch.sizing import shapes
from gaudi_patch.sizing.plan import STEPS, Load, human, size

MARKDOWN = guides.read("capacity").markdown
SMALL, LARGE = (shapes.known(f"meta-llama/Llama-3.1-{name}-Instruct") for name in ("8B", "70B"))
#: Parameters from the model cards, FLOP per second from Intel's white paper on Gaudi 3.
PARAMETERS, FLOPS = {"8B": 8.03e9, "70B": 70.6e9}, 1.835e15


def test_the_memory_of_each_step_is_what_size_prints() -> None:
    assert SMALL is not None
    assert LARGE is not None
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+ \w+) \(computed\) \| ([\d.]+) \| ([\d.]+ \w+) \(computed\) \| ([\d.]+) \|$",
        MARKDOWN,
        re.M,
    )
    expected = []
    for tokens in STEPS:
        small, large = size(SMALL, Load(tokens)), size(LARGE, Load(tokens, 8))
        expected.append(
            (
                str(tokens),
                human(small.prompt_host),
                f"{small.pool_gb:g}",
                human(large.prompt_host),
                f"{large.pool_gb:g}",
            )
        )
    assert rows == expected


def test_the_bounds_are_what_their_formulas_give() -> None:
    rows = re.findall(
        r"^\| (8B|70B), (\d) cards?, (\d+) tokens \(setting\) \| (\d+) ms \(computed\) \| (\d+) ms \(computed\) \|$",
        MARKDOWN,
        re.M,
    )
    assert len(rows) == 4
    for name, cards, tokens, computing, loading in rows:
        shape = SMALL if name == "8B" else LARGE
        assert shape is not None
        one = size(shape, Load(int(tokens), int(cards)))
        assert int(computing) == round(2 * PARAMETERS[name] * int(tokens) / (int(cards) * FLOPS) * 1000)
        assert int(loading) == round(one.prompt / (HOSTS["gaudi3"].pcie * 1e9) * 1000)
