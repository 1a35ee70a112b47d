"""Transfers of multiprocess mode, by LMCache's own worker side on the emulated HPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.runtime.conftest import EMULATOR, INSIDE
from tests.support.environments import Environment, clean_environment

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

# Before 0.5.5 LMCache refuses vllm-gaudi's layout in multiprocess mode.
RELEASES = ["0.5.5", "0.5.6"] if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else ["0.5.6"]


@pytest.mark.parametrize("version", RELEASES)
def test_kv_goes_through_the_servers_memory_and_is_not_pickled(
    patched: Callable[[str], Environment], version: str
) -> None:
    done = subprocess.run(
        [str(patched(version).python), "-B", str(EMULATOR), "--lazy", str(INSIDE / "multiprocess_shm.py")],
        capture_output=True,
        text=True,
        env=clean_environment() | {"OMP_NUM_THREADS": "1", "LMCACHE_TRACK_USAGE": "false"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert done.stdout.splitlines()[-1] == "passed", done.stdout[-2000:]
