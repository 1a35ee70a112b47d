"""Transfers in multiprocess mode, by LMCache's own worker side on the emulated HPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runtime.inside_scripts import lines
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

# Before 0.5.5 LMCache refuses vllm-gaudi's layout in multiprocess mode.
RELEASES = ["0.5.5", "0.5.6"]


@pytest.mark.parametrize("rules", ["lazy", "eager"])
@pytest.mark.parametrize("caches", ["mha", "mla", "shared"])
@pytest.mark.parametrize("version", RELEASES)
def test_chunks_in_the_servers_memory_move_by_the_kernels_and_are_not_pickled(
    patched: Callable[[str], Environment], version: str, caches: str, rules: str
) -> None:
    printed = lines(patched(version).python, "multiprocess_shm.py", caches, rules=rules)
    assert printed[-1] == "passed", printed[-20:]
