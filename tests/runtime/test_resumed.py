"""In each release, requests that vllm-gaudi answers wrongly after a hit are not looked up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES
from tests.runtime.inside_scripts import lines

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

ALL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
SERIES = [series.id for series in load(PATCHES).series]
MULTIPROCESS = [
    series.id
    for series in load(PATCHES).series
    if any(name.startswith("multiprocess-lookup/") for name in series.patches)
]
CASES = [("in-process", version) for version in (SERIES if ALL else ["0.3.7", "0.3.10", "0.4.2", "0.5.6"])]
CASES += [("multiprocess", version) for version in MULTIPROCESS]


@pytest.mark.parametrize(("mode", "version"), CASES)
def test_nothing_is_promised_to_requests_that_must_be_computed(
    mode: str, version: str, patched_tree: Callable[[str], Path], torch_python: Path
) -> None:
    assert lines(torch_python, "resumed.py", mode, tree=patched_tree(version))[-1] == "nothing promised"


def test_every_release_whose_multiprocess_mode_serves_an_hpu_asks() -> None:
    served = [series.id for series in load(PATCHES).series if "mp-engine-driven" in series.capabilities]
    assert set(served) <= set(MULTIPROCESS)
