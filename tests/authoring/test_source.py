"""manifest.toml: every fault is named with the file, the key and the right line."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaudi_patch.authoring import source
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import manifest as manifests
from tests.support.manifests import TEXT, write


def fault(folder: Path) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        source.load(folder)
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "bad-manifest")
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "words", "line_of"),
    [
        ("schema = 2", "schema = 3", "schema: must be 2, not 3", "schema = 3"),
        ("schema = 2", 'schema = "2"', "must be 2", "schema ="),
        ("schema = 2", "", "must be 2, not None", ""),
        ("schema = 2", "schema = 2\nnonsense = 1", "nonsense: unknown key", "nonsense"),
        ('package = "lmcache"', "", "package: must be a non-empty string", "schema"),
        ('package = "lmcache"', "package = 5", "package: must be a non-empty string", "package"),
        ('versions = "==0.5.6"', 'versions = "0.5.6"', "not a PEP 440 specifier", 'versions = "0.5.6"'),
        ('versions = "==0.5.6"', 'versions = ""', "versions: must be a non-empty string", 'versions = ""'),
        ('versions = "==0.5.6"\n', "", "versions: must be a non-empty string", "[[series]]"),
        ('notes = "see below"', "typo = 1", "typo: unknown key", "typo"),
        ('notes = "see below"', 'capabilities = ["fast"]', "a series has the capabilities of its patches", "capab"),
        ('patches = ["runtime/a.patch", "adapter/b.patch"]', "patches = []", "lists no patch", "patches = []"),
        ('patches = ["runtime/a.patch", "adapter/b.patch"]', "patches = 5", "must be a list of strings", "patches = 5"),
        ('"adapter/b.patch"]', '"c.patch"]', 'c.patch: there is no [patch."c.patch"]', "patches = ["),
        ('"adapter/b.patch"]', '"adapter/b.patch", "adapter/b.patch"]', "lists it twice", "patches = ["),
        ('    "runtime/a.patch",\n]', '    "runtime/a.patch",\n    "c.patch",\n]', "c.patch", '    "c.patch"'),
        ('id = "older"', 'id = "0.5.6"', "two series are named 0.5.6", 'id = "0.5.6"'),
        ('why = "w"', 'why = " "', "why: must be a non-empty string", 'why = " "'),
        ('title = "t"\n', "", "title: must be a non-empty string", '[patch."runtime/a.patch"]'),
        ('remove_when = "r"\ncapab', "capab", "remove_when: must be a non-empty string", '[patch."adapter/b.patch"]'),
        (
            'capabilities = ["fast"]',
            'capabilities = ["slow"]',
            "slow: there is no [[capability]]",
            'capabilities = ["s',
        ),
        ('smoke = ["kernels"]', 'smoke = ["kernels", "kernel"]', "no smoke level kernel", "smoke ="),
        ('[patch."adapter/b.patch"]', '[patch."adapter/c.patch"]', "adapter/b.patch", "patches = ["),
        ('reason = "too old"', "", "reason: must be a non-empty string", "[[refused]]"),
        ('reason = "upstream has it"', "", "reason: must be a non-empty string", "[[upstream]]"),
        ("[[pairs]]", "[pairs]", "must be a list of tables", "[pairs]"),
        ("vllm_gaudi = [", "vllm = [", "vllm: unknown key", "vllm = ["),
        ('lmcache = "==0.5.6"\n', "", "lmcache: must be a non-empty string", "[[pairs]]"),
        ('lmcache = "==0.5.6"', 'lmcache = "one"', "lmcache: not a PEP 440 specifier", 'lmcache = "one"'),
        ('[">=0.14.1,<=0.17.1"]', "[]", "lists no specifier", "vllm_gaudi = []"),
        ('[">=0.14.1,<=0.17.1"]', '["from 0.13 on"]', "not a PEP 440 specifier", "vllm_gaudi ="),
        ('[">=0.14.1,<=0.17.1"]', '["~=0.13"]', "not a range of releases", "vllm_gaudi ="),
        ('[">=0.14.1,<=0.17.1"]', '["==0.13.*"]', "not a range of releases", "vllm_gaudi ="),
        ("[[refused]]", "[[refuse]]", "refuse: unknown key", "[[refuse]]"),
        ("schema = 2", "schema = 2\nschema = 2", "not valid TOML", None),
        ('package = "lmcache"', 'package = "lmcache', "not valid TOML", 'package = "lmcache'),
        ('why = "w"', 'why = """w\n"""', "string on several lines", 'why = """'),
    ],
)
def test_every_fault_names_the_file_the_key_and_the_line(
    old: str, new: str, words: str, line_of: str | None, tmp_path: Path
) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    error = fault(write(tmp_path, text))
    assert words in error.message
    assert error.file == str(tmp_path / "manifest.toml")
    lines = text.split("\n")
    if line_of is not None:
        assert lines[error.line - 1].startswith(line_of), (error.line, lines[error.line - 1])


def test_a_fault_near_the_end_of_the_real_manifest_has_its_true_line(tmp_path: Path) -> None:
    """The same key occurs in many tables before."""
    text = (manifests.default_directory() / "manifest.toml").read_text()
    for wrong in ("why", "upstream", "remove_when", "title"):
        at = text.rindex(f"\n{wrong} = ") + 1
        broken = f"{text[:at]}{wrong} = 5{text[text.index(chr(10), at) :]}"
        error = fault(write(tmp_path, broken))
        assert error.line == text.count("\n", 0, at) + 1 > 500
    at = text.rindex('"init/0.3.7.patch"', 0, text.index("[[capability]]"))
    inside = text.rindex("[[series]]", 0, at)
    error = fault(write(tmp_path, text[:inside] + text[inside:].replace('"init/0.3.7.patch"', '"init/none.patch"', 1)))
    assert error.line == text.count("\n", 0, at) + 1


@pytest.mark.parametrize("name", ["/etc/a.patch", "../a.patch", "x/../../a.patch"])
def test_a_patch_outside_of_the_folder_is_a_fault(name: str, tmp_path: Path) -> None:
    """case_18"""
    error = fault(write(tmp_path, TEXT.replace("adapter/b.patch", name)))
    assert "must be below patches/" in error.message


def test_a_patch_that_no_series_uses_is_a_fault(tmp_path: Path) -> None:
    text = TEXT + '\n[patch."unused.patch"]\ntitle = "t"\nwhy = "w"\nupstream = "u"\nremove_when = "r"\n'
    error = fault(write(tmp_path, text))
    assert "patch.unused.patch: no series uses this patch" in error.message
    assert error.line == text.split("\n").index('[patch."unused.patch"]') + 1
    both = text + '\n[patch."neither.patch"]\ntitle = "t"\nwhy = "w"\nupstream = "u"\nremove_when = "r"\n'
    assert "no series uses this patch, nor neither.patch" in fault(write(tmp_path, both)).message


def test_a_newer_schema_asks_for_a_newer_gaudi_patch(tmp_path: Path) -> None:
    assert fault(write(tmp_path, TEXT.replace("schema = 2", "schema = 9"))).hint == "upgrade gaudi-patch"


def test_an_older_schema_says_what_has_changed_since(tmp_path: Path) -> None:
    assert "schema = 2" in fault(write(tmp_path, TEXT.replace("schema = 2", "schema = 1"))).hint


def test_a_missing_manifest_is_a_fault(tmp_path: Path) -> None:
    assert fault(tmp_path).file == str(tmp_path / "manifest.toml")


def test_a_manifest_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    assert "cannot be read" in fault(write(tmp_path, b"\xff")).message


def test_a_series_has_what_its_patches_have(tmp_path: Path) -> None:
    read = source.load(write(tmp_path))
    assert [one.capabilities for one in read.series] == [("fast",), ()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_whatever_the_bytes_it_is_a_manifest_or_a_fault(tmp_path: Path, seed: int) -> None:
    """Hostile manifests: cut, repeated, overwritten; never another exception."""
    choose = random.Random(seed)
    data = bytearray(TEXT.encode())
    for _ in range(choose.randint(1, 4)):
        start = choose.randrange(len(data) + 1)
        end = min(len(data), start + choose.randint(0, 30))
        others = [choose.randbytes(3), b'"', b"[", b"]", b"=", b"\n", b"\x00", b"1e999", b"''", b"[" * 5000]
        data[start:end] = choose.choice([b"", bytes(data[start:end]) * 2, *others])
    write(tmp_path, bytes(data))
    with contextlib.suppress(_Fault):
        read = _load(tmp_path)
        for version in ("0.5.6", "0.4.2", "9"):
            read.verdict(version)


class _Fault(Exception):  # noqa: N818
    """A bad manifest that is reported as such."""


def _load(folder: Path) -> manifests.Manifest:
    try:
        return source.load(folder)
    except GaudiPatchError as error:
        if error.exit is Exit.USAGE and error.code == "bad-manifest":
            raise _Fault from error
        raise
