"""Faults at every call of the storage path: promised tokens arrive, and the next request is served."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES, REPOSITORY
from tests.runtime.inside_scripts import lines
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

EVERY = [series.id for series in load(PATCHES).series]
RELEASES = EVERY if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else ["0.3.7", "0.5.6"]


def test_no_fault_of_multiprocess_mode_breaks_a_promise_of_the_first_release_that_has_it(
    patched_tree: Callable[[str], Path], torch_python: Path, tmp_path: Path
) -> None:
    printed = lines(
        torch_python, "failed_loads.py", tmp_path, "multiprocess", rules="lazy", tree=patched_tree("0.5.5"), timeout=600
    )
    assert re.fullmatch(r"(\d\d) of \1 cases passed", printed[-1]), printed[-20:]


@pytest.mark.parametrize("version", RELEASES)
def test_no_fault_of_a_store_breaks_a_promise(
    patched: Callable[[str], Environment], version: str, tmp_path: Path
) -> None:
    printed = lines(patched(version).python, "failed_loads.py", tmp_path, rules="lazy", timeout=1200)
    passed = [line.partition(" ")[2].strip() for line in printed if line.startswith("ok ")]
    assert len(passed) >= 84
    table = (REPOSITORY / "docs" / "failed-loads.md").read_text()
    listed = set(re.findall(r"^\| `(.+?)` \|", table, flags=re.MULTILINE))
    assert listed == set(passed), "docs/failed-loads.md lists other faults than those that were put in"
