"""LMCache's disk store leaves its files at every start, and the start script of a recipe removes exactly those."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.recipes import text
from gaudi_patch.series.manifest import load
from tests.runtime.conftest import PATCHES
from tests.runtime.inside_scripts import lines
from tests.support.environments import Environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

EVERY = [series.id for series in load(PATCHES).series]
RELEASES = EVERY if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else ["0.3.7", "0.5.6"]


@pytest.mark.parametrize("version", RELEASES)
def test_what_two_engines_have_left_on_a_disk_is_gone_at_the_next_start(
    patched: Callable[[str], Environment], version: str, tmp_path: Path
) -> None:
    place = tmp_path / "kv"
    printed = lines(patched(version).python, "disk_leftovers.py", place, rules="lazy", timeout=600)
    left = {path for path in place.rglob("*") if path.is_file()}
    assert printed[-1] == f"{len(left)} files are left"
    notes = place / "notes.txt"
    notes.write_text("not LMCache's")
    subprocess.run(["sh", "-ec", "\n".join(text._scratch(str(place)))], check=True)
    assert {path for path in place.rglob("*") if path.is_file()} == {notes, place / ".lock"}
