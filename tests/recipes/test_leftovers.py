"""Chunks that recipes remove: those of an earlier engine on a disk, and the oldest of a shared directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gaudi_patch.recipes import cleaner, multiprocess
from tests.recipes.test_compose import fake_python, recipe


def chunk(file: Path, age: float = 0, size: int = 1024 * 1024) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(file, (time.time() - age,) * 2)
    return file


def clean(folder: Path, keep_mib: float) -> subprocess.CompletedProcess[str]:
    script = folder.parent / cleaner.NAME
    script.write_text(cleaner.SCRIPT)
    command = [sys.executable, str(script), str(folder), "--keep-gb", str(keep_mib / 1024)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_oldest_chunks_go_until_the_rest_fits_and_nothing_else_does(tmp_path: Path) -> None:
    store = tmp_path / "store"
    chunks = [chunk(store / f"{number}.data", age=100 - number) for number in range(5)]
    other = chunk(store / "notes.txt", age=1000)
    done = clean(store, 2.5)
    assert done.returncode == 0, done.stderr
    assert [file.exists() for file in chunks] == [False, False, False, True, True]
    assert other.exists()
    assert "removed 3 of 5 chunks" in done.stdout


def test_damaged_chunks_that_an_engine_has_set_aside_count_and_go_as_the_others(tmp_path: Path) -> None:
    store = tmp_path / "store"
    chunks = [chunk(store / f"{number}.data{'.damaged' * (number == 0)}", age=100 - number) for number in range(3)]
    assert clean(store, 2.5).returncode == 0
    assert [file.exists() for file in chunks] == [False, True, True]


def test_half_written_files_go_after_a_day_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    old = chunk(store / "tmp-host-8000" / "a.tmp", age=2 * 24 * 3600)
    new = chunk(store / "tmp-host-8000" / "b.tmp", age=60)
    assert clean(store, 100).returncode == 0
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("keep", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_limit_that_is_no_size_removes_nothing(keep: float, tmp_path: Path) -> None:
    kept = chunk(tmp_path / "store" / "a.data")
    done = clean(tmp_path / "store", keep)
    assert (done.returncode, "nothing was removed" in done.stderr, kept.exists()) == (1, True, True)


def test_a_share_that_is_not_mounted_is_an_error(tmp_path: Path) -> None:
    done = clean(tmp_path / "not-there", 1)
    assert (done.returncode, "is the share mounted?" in done.stderr) == (1, True)


def test_an_engine_empties_its_own_directory_and_refuses_one_in_use(tmp_path: Path) -> None:
    found = recipe("disk", storage=str(tmp_path / "kv"))
    for name, content in found.files.items():
        (tmp_path / name).write_text(content)
    stale = chunk(tmp_path / "kv" / "engine-8000" / "m@1@0@a@bfloat16.pt")
    damaged = chunk(tmp_path / "kv" / "engine-8000" / "m@1@0@c@bfloat16.pt.damaged")
    neighbour = chunk(tmp_path / "kv" / "engine-8100" / "m@1@0@a@bfloat16.pt")
    mine = chunk(tmp_path / "kv" / "engine-8000" / "notes.txt")
    environment = {"PATH": f"{fake_python(tmp_path, 'sleep 60').parent}:/usr/bin:/bin"}
    first = subprocess.Popen(["sh", str(tmp_path / "serve.sh")], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while (stale.exists() or damaged.exists()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not stale.exists()
        assert not damaged.exists(), "no engine counts it, so the disk fills"
        assert neighbour.exists() and mine.exists()
        written = chunk(tmp_path / "kv" / "engine-8000" / "m@1@0@b@bfloat16.pt")
        command = ["sh", str(tmp_path / "serve.sh")]
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert "another engine uses" in second.stderr
        assert written.exists(), "the chunks of an engine that runs are left"
    finally:
        os.killpg(first.pid, 9)
        first.wait()


def test_a_server_removes_what_a_killed_one_left_in_shared_memory_and_never_that_of_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"gaudi-patch-tests-{os.getpid()}"
    monkeypatch.setattr(multiprocess, "SEGMENT", name)
    found = recipe("multiprocess", version="0.5.6")
    for file, content in found.files.items():
        (tmp_path / file).write_text(content)
    segment, lock = Path("/dev/shm", name), Path("/dev/shm", f"{name}.lock")
    segment.write_bytes(b"left")
    environment = {"PATH": f"{fake_python(tmp_path, 'sleep 60').parent}:/usr/bin:/bin"}
    command = ["sh", str(tmp_path / "server.sh")]
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while segment.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not segment.exists()
        segment.write_bytes(b"in use")
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert (second.returncode, "another server uses" in second.stderr) == (1, True), second
        assert segment.read_bytes() == b"in use"
    finally:
        os.killpg(first.pid, 9)
        first.wait()
        segment.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
