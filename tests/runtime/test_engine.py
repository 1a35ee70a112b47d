"""The real LMCacheEngine of each release, patched, on the emulated HPU: store, lookup, retrieve."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES
from tests.runtime.inside_scripts import lines
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

RELEASES = ["0.5.6", "0.4.4", "0.4.2"]


@pytest.mark.parametrize("version", RELEASES)
def test_what_was_stored_is_retrieved_into_the_right_slots(
    patched: Callable[[str], Environment], version: str, tmp_path: Path
) -> None:
    environment = patched(version)
    for rules in ("lazy", "eager"):
        printed = lines(environment.python, "engine.py", tmp_path, rules=rules, timeout=1200)
        assert printed[-1] == "11 cases passed", printed[-20:]


# One per implementation of LMCache's allocator; GAUDI_PATCH_TEST_FULL=1 runs every release.
SAMPLE = ["0.3.7", "0.3.12", "0.4.4", "0.5.6"]
EVERY = [one.id for one in load(PATCHES).series]


@pytest.mark.parametrize("version", EVERY if os.environ.get("GAUDI_PATCH_TEST_FULL") else SAMPLE)
def test_the_allocator_answers_as_the_unpatched_one(patched: Callable[[str], Environment], version: str) -> None:
    printed = lines(patched(version).python, "allocator.py", rules="lazy", timeout=600)
    assert printed[-1] == "6 cases passed", printed[-20:]
