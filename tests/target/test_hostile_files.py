"""Each path in a target is a file, or is refused by name: nothing blocks, nothing huge is read."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.doctor.installed import look
from gaudi_patch.errors import Exit
from gaudi_patch.target import packages
from gaudi_patch.target.locate import Target
from tests.support.fake_interpreter import answering, program
from tests.target.installations import Python, error, find, install


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is limited to 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 42)


def circle(path: Path) -> None:
    path.symlink_to(path.name)


KINDS: tuple[Callable[[Path], None], ...] = (fifo, bound, endless, huge, circle, Path.mkdir)


def replaced(path: Path, kind: Callable[[Path], None]) -> Path:
    path.unlink(missing_ok=True)
    kind(path)
    return path


@pytest.fixture(autouse=True)
def quick() -> object:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("how", ["python", "path", "root"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["METADATA", "WHEEL", "direct_url.json"])
def test_a_file_of_the_metadata_that_is_none_is_refused_by_its_name(
    tmp_path: Path, python: Python, name: str, kind: Callable[[Path], None], how: str
) -> None:
    site = tmp_path / "image/opt/venv/lib/python3.12/site-packages"
    bad = replaced(install(site) / name, kind)
    if how == "root" and kind is endless and name != "METADATA":
        return  # an absolute link starts at the image's root, which has no /dev/zero: the file is missing
    places = {"python": python(site), "path": site, "root": tmp_path / "image"}
    failed = error(Target(**{how: places[how]}))
    assert failed.exit in (Exit.NOT_FOUND, Exit.ENVIRONMENT)
    assert str(bad.parent) in str(failed) and bad.name in str(failed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["RECORD", "entry_points.txt", "top_level.txt", "INSTALLER"])
def test_a_file_that_the_search_does_not_need_is_not_touched(
    tmp_path: Path, python: Python, name: str, kind: Callable[[Path], None]
) -> None:
    replaced(install(tmp_path / "site") / name, kind)
    assert find(Target(python=python(tmp_path / "site"))).version == "0.5.6"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pth_file_that_is_none_is_passed_over(tmp_path: Path, kind: Callable[[Path], None]) -> None:
    from gaudi_patch.inside.sys_path import pth_lines

    (tmp_path / "b.pth").write_text("/opt/b\n")
    replaced(tmp_path / "a.pth", kind)
    assert pth_lines(str(tmp_path))[-1:] == ["/opt/b"]


@pytest.mark.parametrize("kind", KINDS)
def test_versions_of_other_packages_come_from_their_directories_where_metadata_is_none(
    tmp_path: Path, python: Python, kind: Callable[[Path], None]
) -> None:
    site = tmp_path / "site"
    install(site)
    for name in ("torch-2.9.0", "vllm-0.11.0"):
        (site / f"{name}.dist-info").mkdir()
        replaced(site / f"{name}.dist-info" / "METADATA", kind)
    (site / "torch").mkdir()
    replaced(site / "torch" / "version.py", kind)
    found = look(Target(python=python(site)), {}, "lmcache")
    assert (found.packages["torch"].version, found.torch_cuda()) == ("2.9.0", None)
    assert found.requirements("vllm", "transformers") == []
    assert packages.packages(find(Target(path=site)), {})["vllm"] == "0.11.0"


def test_metadata_has_the_last_word_on_a_version(tmp_path: Path) -> None:
    (tmp_path / "torch-2.9.0.dist-info").mkdir()
    (tmp_path / "torch-2.9.0.dist-info/METADATA").write_text("Name: torch\nVersion: 2.9.0+hpu.1\n")
    assert packages.find([str(tmp_path)])["torch"].version == "2.9.0+hpu.1"


def test_a_link_in_an_image_does_not_lead_to_the_hosts_files(tmp_path: Path) -> None:
    site = tmp_path / "image/usr/lib/python3.12/site-packages"
    install(site)
    secret = tmp_path / "secret"
    secret.write_text("Name: torch\nVersion: 9.9\n")
    (site / "torch-2.9.0.dist-info").mkdir()
    (site / "torch-2.9.0.dist-info/METADATA").symlink_to(secret)
    found = look(Target(root=tmp_path / "image"), {}, "lmcache")
    assert found.packages["torch"].version == "2.9.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", "3.12"),
        ("version", [3]),
        ("version", [3, "12"]),
        ("version", [3, -1]),
        ("version", [True, 12]),
        ("path", "a"),
        ("path", [1]),
        ("path", ["/a\0b"]),
        ("path", ["/\ud800"]),
        ("path", ["/a"] * 20_000),
        ("cache_tag", "../../etc"),
        ("cache_tag", "a\nb"),
        ("cache_tag", None),
        ("prefix", 3),
        ("pycache_prefix", ["x"]),
        ("executable", {}),
        ("finder_folder", "a\0"),
        ("frozen", "no"),
    ],
)
def test_an_interpreters_answer_of_another_type_is_refused(
    tmp_path: Path, python: Python, name: str, value: object
) -> None:
    install(tmp_path / "site")
    failed = error(Target(python=python(tmp_path / "site", **{name: value})))
    assert (failed.exit, failed.code) == (Exit.ENVIRONMENT, "interpreter-failed")
    assert f"answer.{name}" in failed.message


@pytest.mark.parametrize("value", ["abc", "3.12", "1.2.3\n", 3, None, ["3"], "1" * 5000])
def test_a_version_that_is_none_is_not_known(tmp_path: Path, value: object) -> None:
    assert packages.python_version(program(tmp_path / "python", answering(value))) is None
    assert packages.python_version(program(tmp_path / "python", answering("3.12.1"))) == "3.12.1"


@pytest.mark.parametrize("content", [b"PK\x05\x06" + bytes(18), b"x" * 100 + b"PK\x05\x06" + b"\xff" * 18])
def test_a_damaged_zip_on_the_path_is_passed_over(tmp_path: Path, python: Python, content: bytes) -> None:
    install(tmp_path / "site")
    (tmp_path / "a.zip").write_bytes(content)
    assert find(Target(python=python(tmp_path / "a.zip", tmp_path / "site"))).version == "0.5.6"


def test_an_answer_is_json_that_a_program_can_give(tmp_path: Path, python: Python) -> None:
    """The forged answers of the other tests have the form of a real interpreter's answer."""
    install(tmp_path / "site")
    text = python(tmp_path / "site").read_text()
    assert json.dumps({"answer": 0})[:11] in text
