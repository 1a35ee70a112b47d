"""headroom.py: every limit between a process and the root of its control groups counts, in both versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from lmcache.gaudi import headroom

GIB = 1 << 30


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return paths for /proc and /sys/fs/cgroup: a host of 64 GiB, 60 of them available, without any group."""
    monkeypatch.setattr(headroom, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(headroom, "_CGROUP", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def group(folder: Path, most: int | str, current: int, files: int = 0) -> None:
    write(folder / "memory.max", f"{most}\n")
    write(folder / "memory.current", f"{current}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {files}\nactive_file 0\n")


def test_a_host_without_groups_is_all(place: Path) -> None:
    assert list(headroom.rooms()) == [("the host", 64 * GIB, 60 * GIB)]
    assert headroom.no_room(50 * GIB) is None
    assert headroom.no_room(58 * GIB) == "the host has 61440 MiB left of 65536"


def test_the_limit_of_a_unit_and_those_above_it_hold(place: Path) -> None:
    write(place / "proc/self/cgroup", "0::/system.slice/vllm.service\n")
    group(place / "cgroup/system.slice/vllm.service", 32 * GIB, 31 * GIB, files=GIB)
    group(place / "cgroup/system.slice", 16 * GIB, 12 * GIB)
    group(place / "cgroup", "max", 20 * GIB)
    limits = [
        ("the control group (memory.max)", 32 * GIB, 2 * GIB),
        ("the control group (memory.max)", 16 * GIB, 4 * GIB),
    ]
    assert list(headroom.rooms())[1:] == limits
    assert headroom.no_room(GIB) == "the control group (memory.max) has 2048 MiB left of 32768"


@pytest.mark.parametrize("own", ["0::/\n", "0::/../other\n", ""])
def test_in_a_namespace_of_its_own_the_top_is_the_group(place: Path, own: str) -> None:
    write(place / "proc/self/cgroup", own)
    group(place / "cgroup", 8 * GIB, 6 * GIB)
    assert list(headroom.rooms())[1:] == [("the control group (memory.max)", 8 * GIB, 2 * GIB)]


def test_version_1_has_its_limit_under_another_name(place: Path) -> None:
    write(place / "proc/self/cgroup", "12:cpu,cpuacct:/a\n9:memory:/docker/abc\n0::/init\n")
    folder = place / "cgroup/memory/docker/abc"
    write(folder / "memory.limit_in_bytes", f"{8 * GIB}\n")
    write(folder / "memory.usage_in_bytes", f"{7 * GIB}\n")
    write(folder / "memory.stat", f"inactive_file 3\ntotal_inactive_file {GIB}\n")
    write(place / "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(place / "cgroup/memory/memory.usage_in_bytes", f"{9 * GIB}\n")
    assert list(headroom.rooms())[1:] == [("the control group (memory.limit_in_bytes)", 8 * GIB, 2 * GIB)]
