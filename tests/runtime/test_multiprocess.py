"""Transfers in multiprocess mode, by LMCache's own worker side on the emulated HPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runtime.inside_scripts import lines
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]


# Before 0.5.5 LMCache refuses vllm-gaudi's layout in multiprocess mode.
@pytest.mark.parametrize(
    ("version", "caches", "rules"),
    [
        ("0.5.6", "mha", "lazy"),
        ("0.5.6", "mha", "eager"),
        ("0.5.6", "mla", "lazy"),
        ("0.5.6", "shared", "lazy"),
        ("0.5.5", "mha", "lazy"),
        ("0.5.5", "mla", "eager"),
    ],
)
def test_chunks_in_the_servers_memory_move_by_the_kernels_and_are_not_pickled(
    patched: Callable[[str], Environment], version: str, caches: str, rules: str
) -> None:
    printed = lines(patched(version).python, "multiprocess_shm.py", caches, rules=rules)
    assert printed[-1] == "passed", printed[-20:]
