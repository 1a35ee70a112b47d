"""In each release, the KV of an adapter, salt, image or prompt of embeddings has its own key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES
from tests.runtime.inside_scripts import lines

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

SERIES = {series.id: series for series in load(PATCHES).series}
ALL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
IN_PROCESS = [*SERIES] if ALL else ["0.3.7", "0.3.10", "0.4.2", "0.5.4", "0.5.6"]
#: Releases whose keys have a salt, and whose own connector fills it.
MULTIPROCESS = ["0.4.5", "0.4.6", "0.4.7", "0.5.0", "0.5.1", "0.5.2", "0.5.3", "0.5.4", "0.5.5", "0.5.6"]
CASES = [("in-process", version) for version in IN_PROCESS]
CASES += [("multiprocess", version) for version in (MULTIPROCESS if ALL else ["0.4.5", "0.5.3", "0.5.6"])]


@pytest.mark.parametrize(("mode", "version"), CASES)
def test_requests_that_differ_in_more_than_tokens_have_keys_of_their_own(
    mode: str, version: str, patched_tree: Callable[[str], Path], torch_python: Path
) -> None:
    assert lines(torch_python, "identities.py", mode, tree=patched_tree(version))[-1] == "12 identities"


def test_every_series_says_that_it_keys_requests() -> None:
    assert [name for name, series in SERIES.items() if "request-identity" not in series.capabilities] == []
