"""Concurrent runs: one wins, the others wait, and exit 4 if they wait too long."""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.cli import command, environment, gaudi_patch
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny, tree


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return replace(scenarios.few(tmp_path), python=None)


@contextmanager
def held(target: Tiny) -> Iterator[None]:
    """Hold the lock, as another run would."""
    descriptor = os.open(target.dist_info, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def arguments(target: Tiny, verb: str, *more: str) -> list[str]:
    quiet = ["--no-smoke"] if verb == "apply" else []
    return [verb, "--path", str(target.site), "--manifest", str(target.manifest.directory), *quiet, *more]


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_the_loser_exits_4_and_changes_nothing(verb: str, few: Tiny) -> None:
    """case_64: --lock-timeout; check and a dry run need no lock."""
    before = tree(few.site, times=True)
    with held(few):
        begin = time.monotonic()
        done = gaudi_patch(*arguments(few, verb, "--lock-timeout", "0.3", "--json"))
        assert (done.code, done.code_of_error) == (4, "locked")
        assert time.monotonic() - begin > 0.3
        assert "--lock-timeout" in done.json["errors"][0]["hint"]
        assert few.check().exit is Exit.PENDING
        assert few.apply(dry_run=True).exit is Exit.OK
    assert tree(few.site, times=True) == before
    assert few.apply(lock_timeout=0.0).exit is Exit.OK


def test_one_that_waits_goes_on_when_the_lock_is_free(few: Tiny) -> None:
    """case_64"""
    with held(few):
        process = subprocess.Popen(
            command(*arguments(few, "apply", "--lock-timeout", "60")), env=environment(), stdout=subprocess.DEVNULL
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert few.check().exit is Exit.PENDING
    assert process.wait(60) == 0
    assert few.check().exit is Exit.OK


@pytest.mark.parametrize("verbs", [("apply", "apply", "apply"), ("apply", "rollback", "apply", "rollback")])
def test_runs_at_once_leave_a_whole_state(verbs: tuple[str, ...], few: Tiny) -> None:
    """case_64: two applies, and apply against rollback."""
    pristine = tree(few.site)
    runs = [
        subprocess.Popen(
            command(*arguments(few, verb, "--lock-timeout", "60")), env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for verb in verbs
    ]  # fmt: skip
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert few.check().exit in (Exit.OK, Exit.PENDING)
    decisive = {side for path, side in few.sides().items() if path != "lmcache/tool.sh"}  # only its mode changes
    assert decisive in ({"patched"}, {"pristine"})
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == pristine


def test_files_are_hashed_again_under_the_lock(few: Tiny) -> None:
    """case_64: decisions made before the lock was held are discarded."""
    with held(few):
        process = subprocess.Popen(
            command(*arguments(few, "apply", "--lock-timeout", "60")), env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(1)
        (few.site / "lmcache/engine.py").write_bytes(b"mine\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "modified: lmcache/engine.py" in err
    assert (few.site / "lmcache/engine.py").read_bytes() == b"mine\n"


def test_a_checkout_is_locked_too(few: Tiny, tmp_path: Path) -> None:
    """case_64: the lock is on its git directory, which contains its state."""
    git = tmp_path / "git"
    git.mkdir()
    installation = replace(few.installation, state_dir=git / "gaudi-patch")
    from gaudi_patch.engine.situation import lock

    with lock(installation, 0), pytest.raises(GaudiPatchError, match="is locked by"), lock(installation, 0):
        pass


def test_a_check_during_a_run_does_not_take_it_for_a_killed_one(few: Tiny) -> None:
    """case_64: a running process's journal is not an interrupted run until that process is gone."""
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    codes = []
    for at in (len(recorder.calls) // 2,):
        with held(few):
            assert in_child(lambda at=at: transaction_killed(few, at)) == KILLED
            codes += [few.check().errors[0].code, few.check().exit]
            said = gaudi_patch(*arguments(few, "check")).err
            assert f"is locked by process {os.getpid()}" in said
            assert not re.search("interrupted|killed|undo", said)
            with pytest.raises(GaudiPatchError, match="is locked by"):
                few.apply(dry_run=True)
        codes += [few.check().errors[0].code, few.check().exit]
    assert codes == ["locked", Exit.ENVIRONMENT, "interrupted", Exit.REFUSED]
    few.rollback()


def transaction_killed(target: Tiny, at: int) -> None:
    """Kill an apply at a step although another process holds the lock: only a test can do that."""
    from contextlib import nullcontext

    from gaudi_patch.engine import exclusive

    exclusive.lock = lambda *_: nullcontext([])  # type: ignore[assignment]
    target.apply(KillAt(at))


class Slow(Disk):
    """Takes its time, so that another run gets some."""

    def step(self, name: str, path: Path) -> None:
        time.sleep(0.002)


@pytest.mark.parametrize("seed", range(8))
def test_a_package_that_is_rewritten_meanwhile_is_never_left_mixed(seed: int, few: Tiny) -> None:
    """case_64: apply against an installer, which ignores the lock: none of its bytes is lost silently."""
    choose = random.Random(seed)
    paths = [path for path in scenarios.FEW if path != "lmcache/__init__.py"]
    theirs = b"# of another release\n"
    touched = []

    def installer() -> None:
        time.sleep(choose.uniform(0, 0.25))
        for path in choose.sample(paths, 2):
            temp = few.site / "pip-temp"
            temp.write_bytes(theirs)
            temp.replace(few.site / path)
            touched.append(path)

    thread = threading.Thread(target=installer)
    thread.start()
    try:
        code = few.apply(Slow()).exit
    except GaudiPatchError as error:
        code = error.exit
    finally:
        thread.join()
    for path in touched:
        # Kept, or overwritten right after the last check of it; an interrupted run then restored the pristine bytes.
        ours = [scenarios.FEW_PATCHED[path]] if code is Exit.OK else [scenarios.FEW_PATCHED[path], scenarios.FEW[path]]
        assert (few.site / path).exists() is False or (few.site / path).read_bytes() in (theirs, *ours)
    if code is Exit.OK:
        assert set(few.sides().values()) <= {"patched", "third"}
    result = few.check()
    assert result.exit is not Exit.PENDING or not touched or code is not Exit.OK


def test_an_interpreter_that_imports_meanwhile_gets_old_or_new_code(few: Tiny) -> None:
    """case_48: each file is replaced atomically; no reader sees half of it."""
    seen: set[bytes] = set()
    stop = threading.Event()
    engine = few.site / "lmcache/engine.py"

    def reader() -> None:
        while not stop.is_set():
            seen.add(engine.read_bytes())

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for _ in range(3):
            few.apply(Slow())
            few.rollback(Slow())
    finally:
        stop.set()
        thread.join()
    assert seen == {scenarios.FEW["lmcache/engine.py"], scenarios.FEW_PATCHED["lmcache/engine.py"]}
