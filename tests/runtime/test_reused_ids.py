"""In each release, no request id that is used again, no long wait and no setting of a client ends the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES
from tests.runtime.inside_scripts import lines

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

SERIES = [series.id for series in load(PATCHES).series]
SAMPLE = ["0.3.7", "0.3.10", "0.4.2", "0.5.6"]


@pytest.mark.parametrize("version", SERIES if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else SAMPLE)
def test_an_id_that_is_used_again_an_old_promise_and_a_clients_settings_end_nothing(
    version: str, patched_tree: Callable[[str], Path], torch_python: Path
) -> None:
    assert lines(torch_python, "reused_ids.py", tree=patched_tree(version))[-1] == "the engine goes on"
