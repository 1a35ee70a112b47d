"""Files made by others are read with a limit, without blocking; JSON that breaks parsers is an error."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from gaudi_patch.reading import UnsuitableFileError, parse_json, read_bytes, read_text


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ab\xff")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "file", 3) == read_bytes(str(tmp_path / "link")) == b"ab\xff"
    assert os.fsencode(read_text(tmp_path / "link")) == b"ab\xff"
    assert read_bytes("/proc/self/status").startswith(b"Name:"), "a file whose size is told as 0"


@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "directory", "endless", "huge", "link"])
def test_what_is_no_regular_file_or_too_large_is_named_at_once(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, why = tmp_path / "file", kind
    monkeypatch.chdir(tmp_path)
    if kind == "fifo":
        os.mkfifo(path)
        why = "FIFO"
    elif kind == "device":
        path, why = Path("/dev/zero"), "character device"
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("file")
    elif kind == "directory":
        path.mkdir()
    elif kind == "endless":
        path, why = Path("/proc/self/maps"), "larger than 10 bytes"
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(1 << 42)
        why = "larger than 10 bytes"
    else:
        path.symlink_to("/etc/passwd")
        why = "symbolic link"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    with pytest.raises(UnsuitableFileError) as caught:
        read_bytes(path, 10, follow=kind != "link")
    assert time.monotonic() - begun < 60
    assert caught.value.filename == str(path) and why in str(caught.value.strerror)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 16 * 1024


def test_what_is_swapped_for_a_fifo_after_the_look_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    real = os.stat(path)  # noqa: PTH116
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: real)
    with pytest.raises(UnsuitableFileError, match="FIFO"):
        read_bytes(path)


def test_what_is_not_there_stays_that(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        read_bytes("/etc/passwd/file")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("[" * 300 + "]" * 300, "nested deeper"),
        ('["a\\u0000b"]', "NUL"),
        ('{"a\\u0000": 1}', "NUL"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("[1", "Expecting"),
        ("", "Expecting"),
        (b"\xff\xfe\x00", "."),
        (b'["\xff"]', "decode"),
    ],
)
def test_json_that_breaks_parsers_is_a_value_error(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_json_of_ours_is_read_also_with_a_path_that_is_no_text() -> None:
    value = {"path": os.fsdecode(b"/opt/\xff"), "é": [1, None, True, 1.5, {"a": []}]}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value


def test_a_million_values_are_read_in_linear_time() -> None:
    def seconds(count: int) -> float:
        data = json.dumps([{"path": f"a/{number}", "n": number} for number in range(count)])
        begun = time.process_time()
        parse_json(data)
        return time.process_time() - begun

    assert seconds(200_000) < 20 * max(seconds(20_000), 0.01)
