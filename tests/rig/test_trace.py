"""The rig itself: the library sees all calls of a process and counts the right ones, and its faults arrive.

With an instrument that sees nothing, every test that relies on it would pass.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.rig import trace
from tests.rig.trace import Done, Fault

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler to build the preloaded library"
)


def python(text: str, *roots: Path, fault: Fault | None = None) -> Done:
    """Run ``text`` with this interpreter, under the library."""
    return trace.run([sys.executable, "-c", text], env=dict(os.environ), roots=roots, fault=fault)


def test_reads_writes_and_removals_are_seen_by_the_path_that_they_reach(tmp_path: Path) -> None:
    secret, inside = tmp_path / "secret", tmp_path / "inside"
    secret.mkdir()
    inside.mkdir()
    (secret / "key").write_text("k")
    (secret / "old").write_text("o")
    (inside / "way").symlink_to(secret)
    (inside / "file").symlink_to(secret / "key")
    done = python(
        f"import os; os.chdir({str(inside)!r}); open('file').read(); os.unlink('way/old'); open('way/new', 'w').close()"
        "; os.listdir('way')"
    )
    assert done.code == 0, done.err
    assert {secret / "key", secret} <= done.opened
    assert {secret / "key", secret} <= done.read
    assert done.removed == {secret / "old"}
    assert {secret / "old", secret / "new"} <= done.written
    assert {call.kind for call in done.touched(secret)} >= {"open", "read", "unlink", "readdir"}
    assert not done.touched(tmp_path / "elsewhere")


def test_calls_by_directory_descriptor_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = (
        f"import os; fd = os.open({str(tmp_path)!r}, os.O_RDONLY); os.mkdir('b', dir_fd=fd)"
        "; os.rename('a', 'c', src_dir_fd=fd, dst_dir_fd=fd); os.rmdir('b', dir_fd=fd); os.fsync(fd)"
        "; os.symlink('x', 'l', dir_fd=fd); os.close(os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=fd))"
    )
    done = python(text, tmp_path)
    assert done.code == 0, done.err
    assert {tmp_path / name for name in ("a", "b", "c", "l", "new")} <= done.written
    assert [call.path for call in done.calls if call.kind == "fsync"] == [tmp_path]


def test_a_look_that_only_finds_a_link_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "link").symlink_to("victim")
    path = str(tmp_path / "link")
    flags = "os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY"
    refused = python(
        f"import os; os.lstat({path!r}); os.readlink({path!r})\ntry: os.open({path!r}, {flags})\nexcept OSError: 0"
    )
    assert refused.code == 0 and not refused.touched(tmp_path / "victim")


def test_only_calls_below_the_roots_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = python(
        f"open({str(tmp_path / 'in/x')!r}, 'w').close(); open({str(tmp_path / 'y')!r}, 'w').close()", tmp_path / "in"
    )
    assert [(call.kind, call.number) for call in done.calls if call.number and call.kind == "open"] == [("open", 1)]


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EACCES", "EDQUOT", "EROFS", "ESTALE", "ENOENT", "EMFILE"])
def test_the_second_call_of_a_kind_fails_with_the_error_asked_for(tmp_path: Path, name: str) -> None:
    text = f"""
import os
for number in range(3):
    try: os.mkdir({str(tmp_path)!r} + f'/{{number}}'); print('made')
    except OSError as error: print(error.errno)
"""
    done = python(text, tmp_path, fault=Fault("mkdir", 2, name))
    assert done.out.split() == ["made", str(getattr(errno, name)), "made"]
    assert [call.fault for call in done.faulted] == [name]
    persisting = python(text, tmp_path / "0", tmp_path, fault=Fault("mkdir", 1, name, persist=True))
    assert "made" not in persisting.out


def test_a_write_falls_short_and_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "file"
    text = f"import os; print(os.write(os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY), b'x' * 10))"
    assert python(text, tmp_path, fault=Fault("write", 1, "SHORT")).out == "5\n"
    path.unlink()
    assert python(text, tmp_path, fault=Fault("write", 1, "TORN")).code == -9
    assert path.read_bytes() == b"xxxxx"


def test_a_read_falls_short(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    text = f"import os; print(os.read(os.open({str(tmp_path / 'file')!r}, os.O_RDONLY), 10))"
    assert python(text, tmp_path, fault=Fault("read", 1, "SHORT")).out == "b'01234'\n"


def test_a_kill_comes_before_the_call_and_children_are_spared(tmp_path: Path) -> None:
    done = python(f"import os; os.mkdir({str(tmp_path / 'a')!r})", tmp_path, fault=Fault("mkdir", 1, "SIGKILL"))
    assert done.code == -9 and not (tmp_path / "a").exists()
    child = f"import os; os.mkdir({str(tmp_path / 'b')!r})"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = python(parent, tmp_path, fault=Fault("mkdir", 1, "SIGKILL"))
    assert done.code == 0 and tmp_path / "b" in done.written


def test_names_with_control_characters_come_back_whole(tmp_path: Path) -> None:
    name = os.fsdecode(b"tab\tnewline\nback\\slash\xff")
    done = python(f"open({str(tmp_path)!r} + '/' + {name!r}, 'w').close()", tmp_path)
    assert tmp_path / name in done.written


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    text = "import time; time.sleep(60)"
    assert trace.run([sys.executable, "-c", text], env=dict(os.environ), timeout=1).code == trace.HUNG
