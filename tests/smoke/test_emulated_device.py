"""The build of the emulated device returns its result in its own file, whatever the environment prints."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from gaudi_patch.smoke import emulated
from gaudi_patch.smoke.emulated import Device


def prepared(tmp_path: Path, answer: str, status: int = 0) -> Device:
    """Prepare with a build that writes ``answer`` to its file and prints another path last."""
    script = tmp_path / "emulator.py"
    script.write_text(
        textwrap.dedent(f"""\
            import atexit, sys
            assert sys.argv[1:3] == ["build", "--name-to"]
            atexit.register(print, "/tmp/printed-at-exit")
            answer = {answer!r}
            if answer:
                open(sys.argv[3], "wb").write(answer.encode("utf-8", "surrogateescape"))
            sys.exit({status})
        """)
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return emulated.prepare(Path(sys.executable), script, os.environ, scratch)


def test_what_is_printed_last_is_not_taken_for_the_device(tmp_path: Path) -> None:
    assert prepared(tmp_path, "/cache/device.so") == Device(Path("/cache/device.so"))
    assert prepared(tmp_path, "/cache/d\udce9vice.so") == Device(Path("/cache/d\udce9vice.so"))


@pytest.mark.parametrize("answer", ["", "device.so", "/cache/\0"])
def test_without_an_absolute_name_there_is_no_device(tmp_path: Path, answer: str) -> None:
    prepared(tmp_path, "/an/earlier/answer")
    device = prepared(tmp_path, answer)
    assert device.library is None
    assert device.fault.startswith("the emulated HPU cannot be prepared (exit status 0")


def test_a_build_that_fails_names_no_device(tmp_path: Path) -> None:
    device = prepared(tmp_path, "/cache/device.so", status=3)
    assert device.library is None
    assert "exit status 3" in device.fault
