"""manifest.lock: written and read, every fault in it named, and a stale one found without reading TOML."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import lock
from gaudi_patch.series.manifest import default_directory, load
from tests.support.cli import gaudi_patch
from tests.support.manifests import TEXT, document, write, write_locked

BUILT_IN = default_directory()


def fault(folder: Path) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        load(folder)
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "bad-manifest")
    return caught.value


def put(folder: Path, content: object) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / lock.NAME).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_locked(tmp_path)


def test_what_is_rendered_is_what_is_read() -> None:
    file = BUILT_IN / lock.NAME
    content = lock.parse(file.read_bytes(), file)
    assert lock.render(content, (BUILT_IN / lock.SOURCE).read_bytes()) == file.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "schema: must be 2"),
        ({"schema": 1}, "schema: must be 2, not 1"),
        ({"schema": 2}, "does not have the form of a lock"),
    ],
    ids=repr,
)
def test_a_lock_that_is_none_is_a_fault(content: object, words: str, folder: Path) -> None:
    error = fault(put(folder, content))
    assert words in error.message
    assert error.file == str(folder / lock.NAME)
    assert error.hint == f"maintainers: gaudi-patch dev lint --write --manifest {folder}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("package",), 1),
        (("source_sha256",), None),
        (("series",), {}),
        (("series", 0, "id"), None),
        (("series", 0, "patches"), "runtime/a.patch"),
        (("series", 0, "patches"), ["none.patch"]),
        (("series", 0, "files"), []),
        (("series", 0, "files"), {"x": ["1"]}),
        (("series", 0, "files"), {"x": ["1", 2]}),
        (("series", 0, "files"), {"x": 3}),
        (("patches",), []),
        (("patches", "runtime/a.patch", "sha256"), 1),
        (("patches", "runtime/a.patch", "title"), ["t"]),
        (("patches", "runtime/a.patch", "hunks"), {"x": "many"}),
        (("patches", "runtime/a.patch", "capabilities"), ["unknown"]),
        (("capabilities", 0, "smoke"), "kernels"),
        (("refused", 0), "old"),
        (("pairs", 0, "vllm_gaudi"), ">=1"),
    ],
    ids=repr,
)
def test_a_lock_with_anything_of_another_kind_is_a_fault(
    path: tuple[str | int, ...], value: object, folder: Path
) -> None:
    content: Any = document(folder)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    assert path[-1] in inner or isinstance(path[-1], int)
    inner[path[-1]] = value
    assert "does not have the form of a lock" in fault(put(folder, content)).message


def test_a_missing_lock_says_what_to_type(tmp_path: Path) -> None:
    error = fault(write(tmp_path))
    assert error.message == "cannot be read: No such file or directory"
    assert error.hint == f"maintainers: gaudi-patch dev lint --write --manifest {tmp_path}"


def test_a_directory_with_a_space_is_quoted_in_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "my patches").mkdir()
    assert fault(write(tmp_path / "my patches")).hint.endswith(f"--manifest '{tmp_path / 'my patches'}'")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('reason = "too old"', 'reason = "far too old"'),
        ('"runtime/a.patch", "adapter/b.patch"', '"adapter/b.patch", "runtime/a.patch"'),
        ('notes = "see below"', 'notes = "see # below"'),
        ('reason = "too old"', "reason = 'too old#'"),
        ('advice = "move to 0.4.2"\n', "#advice\n"),
    ],
)
def test_a_lock_that_is_older_than_its_manifest_is_refused(old: str, new: str, folder: Path) -> None:
    assert old in TEXT
    write(folder, TEXT.replace(old, new))
    error = fault(folder)
    assert error.message == "is stale: manifest.toml beside it has changed since the lock was generated"
    assert "dev lint --write --manifest" in error.hint


@pytest.mark.parametrize(
    "text",
    [
        f"# first\n{TEXT}",
        TEXT.replace("\n\n", "\n# a comment with \"quotes\" and 'more'\n\n\n"),
        TEXT.replace('"see below"', '"see below" # here'),
        TEXT.replace("smoke = ", "   smoke = "),
        TEXT.replace("\n", "\r\n"),
    ],
)
def test_comments_and_blank_lines_make_nothing_stale(text: str, folder: Path) -> None:
    assert load(write(folder, text)).series[0].id == "0.5.6"


def test_a_directory_that_is_named_as_the_wheel_names_its_own_is_no_exception(tmp_path: Path) -> None:
    (tmp_path / lock.SHIPPED).mkdir()
    folder = write_locked(tmp_path / lock.SHIPPED)
    write(folder, TEXT.replace("too old", "far too old"))
    assert "is stale" in fault(folder).message


def test_a_run_reads_no_toml(tmp_path: Path) -> None:
    """TOML is for maintainers: check, list and show do not even import its parser."""
    code = (
        "import sys; from gaudi_patch.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('tomllib', 'tomli', 'gaudi_patch.authoring')))"
    )
    import subprocess

    for command in (["list"], ["show", "0.5.6"], ["check", "--path", str(tmp_path)]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_a_stale_manifest_of_a_user_is_refused_by_every_command(tmp_path: Path) -> None:
    shutil.copytree(BUILT_IN, tmp_path / "mine")
    assert gaudi_patch("list", "--manifest", tmp_path / "mine").code == 0
    with (tmp_path / "mine" / lock.SOURCE).open("a") as stream:
        stream.write('\n[[upstream]]\nversions = ">=9"\nreason = "upstream has it"\n')
    for command in (["list"], ["show", "0.5.6"], ["check", "--path", tmp_path]):
        done = gaudi_patch(*command, "--manifest", tmp_path / "mine")
        assert done.code == 2
        assert "is stale" in done.err
        assert f"gaudi-patch dev lint --write --manifest {tmp_path / 'mine'}" in done.err


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_whatever_the_bytes_it_is_a_lock_or_a_fault(tmp_path: Path, seed: int) -> None:
    """Hostile locks: cut, repeated, overwritten; never another exception."""
    choose = random.Random(seed)
    data = bytearray((write_locked(tmp_path) / lock.NAME).read_bytes())
    for _ in range(choose.randint(1, 4)):
        start = choose.randrange(len(data) + 1)
        end = min(len(data), start + choose.randint(0, 30))
        others = [choose.randbytes(3), b'"', b"[", b"]", b"{", b"null", b"\x00", b"1e999", b"NaN", b"[" * 5000]
        data[start:end] = choose.choice([b"", bytes(data[start:end]) * 2, *others])
    put(tmp_path, bytes(data))
    try:
        read = load(tmp_path)
        for version in ("0.5.6", "0.4.2", "9"):
            read.verdict(version)
    except GaudiPatchError as error:
        assert (error.exit, error.code) == (Exit.USAGE, "bad-manifest")  # noqa: PT017 - any other is a failure
