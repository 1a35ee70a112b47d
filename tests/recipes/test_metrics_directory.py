"""The shared metrics directory of an engine's processes: one start, one user, and no other engine."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from gaudi_patch.recipes.compose import MODES
from tests.recipes.test_compose import fake_python, recipe


def write(place: Path) -> None:
    for name, content in recipe("memory").files.items():
        (place / name).write_text(content)


def start(place: Path) -> subprocess.CompletedProcess[str]:
    """Run the script; stdout has the directory in which its engine would count."""
    python = fake_python(place, 'echo "$PROMETHEUS_MULTIPROC_DIR"')
    given = {"PATH": f"{python.parent}:/usr/bin:/bin", "TMPDIR": str(place)}
    command = ["sh", str(place / "serve.sh")]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


def counted(place: Path) -> Path:
    return place / f"vllm-metrics-{os.getuid()}-8000"


def test_it_is_private_and_emptied_of_what_an_earlier_start_counted(tmp_path: Path) -> None:
    write(tmp_path)
    assert start(tmp_path).stdout.split() == [str(counted(tmp_path))]
    assert counted(tmp_path).stat().st_mode & 0o777 == 0o700
    stale, other = counted(tmp_path) / "counter_1.db", counted(tmp_path) / "notes.txt"
    stale.write_bytes(b"1")
    other.write_bytes(b"1")
    assert start(tmp_path).returncode == 0
    assert (stale.exists(), other.exists()) == (False, True)


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = elsewhere / "counter_1.db"
    kept.write_bytes(b"1")
    counted(tmp_path).symlink_to(elsewhere)
    done = start(tmp_path)
    assert (done.returncode, "not a directory of this user" in done.stderr, kept.exists()) == (1, True, True)
    counted(tmp_path).unlink()
    counted(tmp_path).write_text("")
    assert start(tmp_path).returncode == 1


def test_a_second_start_of_the_same_engine_leaves_what_the_first_counts(tmp_path: Path) -> None:
    write(tmp_path)
    given = {"PATH": f"{fake_python(tmp_path, 'sleep 60').parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = ["sh", str(tmp_path / "serve.sh")]
    first = subprocess.Popen(command, env=given, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not (counted(tmp_path) / ".lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # until it holds the lock
        counting = counted(tmp_path) / "counter_2.db"
        counting.write_bytes(b"1")
        done = start(tmp_path)
        assert (done.returncode, "another engine counts" in done.stderr) == (1, True), done
        assert counting.exists()
    finally:
        os.killpg(first.pid, 9)
        first.wait()


@pytest.mark.parametrize("mode", MODES)
def test_each_engine_in_process_has_one_and_a_server_of_lmcache_none(mode: str) -> None:
    for process in recipe(mode).processes:
        assert process.metrics == (process.serves and mode != "multiprocess"), process.name
