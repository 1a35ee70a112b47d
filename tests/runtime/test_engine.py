"""The real LMCacheEngine of each release, patched, on the emulated HPU: store, lookup, retrieve."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.series.manifest import load
from tests.runtime.conftest import EMULATOR, INSIDE, PATCHES
from tests.support.environments import Environment, clean_environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

RELEASES = ["0.5.6", "0.4.4", "0.4.2"]


@pytest.mark.parametrize("version", RELEASES)
def test_what_was_stored_is_retrieved_into_the_right_slots(
    patched: Callable[[str], Environment], version: str, tmp_path: Path
) -> None:
    environment = patched(version)
    for rules in ("lazy", "eager"):
        done = subprocess.run(
            [str(environment.python), "-B", str(EMULATOR), f"--{rules}", str(INSIDE / "engine.py"), str(tmp_path)],
            capture_output=True,
            text=True,
            env=clean_environment() | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false"},
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{rules}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        assert done.stdout.splitlines()[-1] == "11 cases passed", done.stdout[-2000:]


# Of each way in which LMCache's allocator was written; GAUDI_PATCH_TEST_FULL=1 takes every release.
SAMPLE = ["0.3.7", "0.3.12", "0.4.4", "0.5.6"]
EVERY = [one.id for one in load(PATCHES).series]


@pytest.mark.parametrize("version", EVERY if os.environ.get("GAUDI_PATCH_TEST_FULL") else SAMPLE)
def test_the_allocator_answers_as_the_unpatched_one(patched: Callable[[str], Environment], version: str) -> None:
    environment = patched(version)
    done = subprocess.run(
        [str(environment.python), "-B", str(EMULATOR), "--lazy", str(INSIDE / "allocator.py")],
        capture_output=True,
        text=True,
        env=clean_environment() | {"OMP_NUM_THREADS": "1", "LMCACHE_TRACK_USAGE": "false"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    assert done.stdout.splitlines()[-1] == "5 cases passed", done.stdout[-2000:]
