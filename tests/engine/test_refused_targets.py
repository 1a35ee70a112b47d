"""Targets that cannot be patched."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.tiny import Tiny, tree


def test_another_build_of_the_release_is_told_from_an_edit(few: Tiny) -> None:
    """case_14 case_52: the hint depends on whether RECORD matches the file."""
    engine = few.site / "lmcache/engine.py"
    engine.write_bytes(b"# another build\n")
    (line,) = few.check().errors[0].details
    assert "uv cache clean lmcache" in line
    from gaudi_patch.engine import record

    data = few.record.read_bytes()
    few.record.write_bytes(record.updated(data, {"lmcache/engine.py": record.Entry.of(engine.read_bytes())}))
    (line,) = few.check().errors[0].details
    assert "another build" in line


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "dangling", "loop"])
def test_what_is_no_regular_file_is_refused_and_does_not_hang(kind: str, few: Tiny, tmp_path: Path) -> None:
    """case_17"""
    engine = few.site / "lmcache/engine.py"
    engine.unlink()
    if kind == "fifo":
        os.mkfifo(engine)
    elif kind == "folder":
        engine.mkdir()
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        os.chdir(engine.parent)  # a socket's path is limited to 107 bytes
        server.bind("engine.py")
        server.close()
    else:
        engine.symlink_to("engine.py" if kind == "loop" else "nowhere")
    for verb in (few.check, few.apply, few.rollback):
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert caught.value.exit is Exit.REFUSED
        assert caught.value.file == str(engine)
    os.chdir("/")


def test_a_folder_that_is_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    """case_16 case_19"""
    target = tiny.make(tmp_path)
    outside = tmp_path / "outside"
    (target.site / "lmcache/v1").rename(outside)
    (target.site / "lmcache/v1").symlink_to(outside)
    before = tree(outside, times=True)
    for verb in (target.check, target.apply):
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "outside-package")
    assert tree(outside, times=True) == before


def test_a_folder_that_is_a_link_within_the_package_is_followed(tmp_path: Path) -> None:
    """case_16"""
    target = tiny.make(tmp_path)
    (target.site / "lmcache/v1").rename(target.site / "lmcache/real")
    (target.site / "lmcache/v1").symlink_to("real")
    before = tree(target.site)
    assert target.apply().exit is Exit.OK
    assert target.rollback().exit is Exit.OK
    assert tree(target.site) == before


@pytest.mark.parametrize("name", ["engine.cpython-311-x86_64-linux-gnu.so", "engine.abi3.so", "engine.so"])
def test_a_compiled_module_of_the_same_name_is_refused(name: str, few: Tiny) -> None:
    """case_57: the patched source would never run."""
    (few.site / "lmcache" / name).write_bytes(b"\x7fELF")
    for verb in (few.check, few.apply):
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "compiled-module")


@pytest.mark.parametrize("code", [b"def f(:\n", b"x = 1\n  y = 2\n", b"\x00\n"])
def test_a_result_that_is_no_python_is_refused_before_anything_is_written(code: bytes, tmp_path: Path) -> None:
    """case_44"""
    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"A = 1\n"}, {"lmcache/__init__.py": b"A = 2\n"})
    bad = tiny.patch({"lmcache/__init__.py": b"A = 1\n"}, {"lmcache/__init__.py": code})
    import hashlib
    import json

    directory = target.manifest.directory
    (directory / "tiny.patch").write_bytes(bad)
    locked = json.loads((directory / "manifest.lock").read_bytes())
    locked["patches"]["tiny.patch"]["sha256"] = hashlib.sha256(bad).hexdigest()
    locked["series"][0]["files"]["lmcache/__init__.py"][1] = hashlib.sha256(code).hexdigest()
    (directory / "manifest.lock").write_text(json.dumps(locked))
    from gaudi_patch.series.manifest import load

    target = replace(target, manifest=load(directory))
    before = tree(target.site, times=True)
    with pytest.raises(GaudiPatchError) as caught:
        target.apply()
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "not-python")
    assert caught.value.file == str(target.site / "lmcache/__init__.py")
    assert tree(target.site, times=True) == before


def test_a_lock_that_promises_other_bytes_is_refused(few: Tiny) -> None:
    """The result is computed in memory and compared with the lock before anything is written."""
    manifest = few.manifest
    (series,) = manifest.series
    wrong = series.files["lmcache/engine.py"]._replace(after="0" * 64)
    series = series._replace(files={**series.files, "lmcache/engine.py": wrong})
    few = replace(few, manifest=manifest._replace(series=(series,)))
    before = tree(few.site, times=True)
    with pytest.raises(GaudiPatchError) as caught:
        few.apply()
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "lock-mismatch")
    assert tree(few.site, times=True) == before
