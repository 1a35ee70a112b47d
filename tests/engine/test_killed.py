"""The system from outside: real processes killed at random times, and a file system that really fills up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.cli import command, environment
from tests.support.faults import FULL, copy_tree, memory_folder
from tests.support.tiny import Tiny, tree

#: Number of kills; 200 with GAUDI_PATCH_TEST_FULL=1.
KILLS = 200 if FULL else 16


@pytest.fixture(autouse=True)
def _one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def start(target: Tiny, verb: str) -> subprocess.Popen[bytes]:
    quiet = ["--no-smoke"] if verb == "apply" else []
    arguments = command(verb, "--path", target.site, "--manifest", target.manifest.directory, *quiet)
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment(SOURCE_DATE_EPOCH="1700000000"),
    )  # fmt: skip


def test_killed_at_random_times_the_next_run_makes_it_whole(
    record_property: Callable[[str, object], None],
) -> None:
    """case_1 case_2: SIGKILL from outside, without any seam; half of the kills are aimed at the transaction itself."""
    choose = random.Random(7)
    seen = {"interrupted": 0, "pristine": 0, "patched": 0}
    with memory_folder() as folder:
        target = replace(scenarios.few(folder), python=None)  # as with --path: no interpreter to run
        pristine = tree(target.site)
        target.apply()
        patched = tree(target.site)
        copy_tree(target.site, folder / "patched")
        target.rollback()
        assert tree(target.site) == pristine
        copy_tree(target.site, folder / "pristine")
        begin = time.monotonic()
        start(target, "check").wait()
        usual = time.monotonic() - begin
        for number in range(KILLS):
            verb, origin = ("apply", "pristine") if number % 2 else ("rollback", "patched")
            copy_tree(folder / origin, target.site)
            process = start(target, verb)
            if number % 4 < 2:
                time.sleep(choose.uniform(0, usual * 1.5))
            else:
                limit = time.monotonic() + 30
                while not target.home.exists() and process.poll() is None and time.monotonic() < limit:
                    pass
                time.sleep(choose.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
            result = target.check()
            if [error.code for error in result.errors] == ["interrupted"]:
                seen["interrupted"] += 1
            else:
                found = {name: node for name, node in tree(target.site).items() if "journal" not in name}
                assert found == (patched if result.exit is Exit.OK else pristine)
                seen["patched" if result.exit is Exit.OK else "pristine"] += 1
            if choose.random() < 0.5:
                assert target.apply().exit is Exit.OK
                assert tree(target.site) == patched
            else:
                assert target.rollback().exit is Exit.OK
                assert tree(target.site) == pristine
    record_property("processes killed at random", KILLS)
    assert sum(seen.values()) == KILLS
    assert not FULL or all(seen.values()), seen


@contextmanager
def small_file_system(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_on_a_file_system_that_is_full_nothing_changes(
    verb: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """case_3: a real ENOSPC at every amount of free space, from none to enough."""
    target = scenarios.few(tmp_path / "made")
    if verb == "rollback":
        target.apply()
    filled = 0
    with small_file_system(tmp_path / "small", "size=1m") as small:
        here = target.at(copy_tree(target.site, small / "site"))
        before = tree(here.site)
        page = 4096
        ballast = small / "ballast"
        for pages in range(200):
            free = os.statvfs(small).f_bavail * page + (ballast.stat().st_size if ballast.exists() else 0)
            ballast.write_bytes(bytes(max(0, free - pages * page)))
            try:
                result = here.apply() if verb == "apply" else here.rollback()
            except GaudiPatchError as error:
                told = error
            else:
                assert result.exit is Exit.OK
                break
            assert (told.exit, told.code) == (Exit.ENVIRONMENT, "enospc")
            assert tree(here.site) == before
            assert here.check().exit is (Exit.PENDING if verb == "apply" else Exit.OK)
            filled += 1
        assert filled > 5
        assert here.check().exit is (Exit.OK if verb == "apply" else Exit.PENDING)
    record_property("full file systems", filled)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_without_inodes_nothing_changes(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """case_3: ENOSPC for lack of inodes."""
    target = scenarios.few(tmp_path / "made")
    count = len(tree(target.site)) + 2
    tried = 0
    for spare in range(1, 60):
        with small_file_system(tmp_path / f"small{spare}", f"size=1m,nr_inodes={count + spare}") as small:
            here = target.at(copy_tree(target.site, small / "site"))
            before = tree(here.site)
            try:
                assert here.apply().exit is Exit.OK
            except GaudiPatchError as error:
                told = error
            else:
                break
            assert told.code == "enospc"
            assert tree(here.site) == before
            tried += 1
    assert tried > 5
    record_property("full file systems", tried)
