"""The manifest and its lock: verdicts for versions, and every fault named with file, key and line."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.manifest import Kind, Manifest, load
from tests.support import tiny

TEXT = """\
schema = 1
package = "lmcache"

[[series]]
versions = "==0.5.6"
patches = ["common/a.patch", "0.5.6/b.patch"]
capabilities = ["fast"]
notes = "see below"

[[series]]
id = "older"
versions = ">=0.4.1,<0.4.3"
patches = ["common/a.patch"]

[[capability]]
id = "fast"
summary = "it is fast"
evidence = "a test"
smoke = ["kernels"]

[[refused]]
versions = "<0.3.7"
reason = "too old"
advice = "move to 0.4.2"

[[upstream]]
versions = ">=0.6"
reason = "upstream has it"

[[pairs]]
lmcache = "0.5.6"
vllm_gaudi = "0.14.1 to 0.17.1"

[patch."common/a.patch"]
why = "w"
upstream = "u"
remove_when = "r"

[patch."0.5.6/b.patch"]
why = "w"
upstream = "u"
remove_when = "r"
"""

LOCK: dict[str, Any] = {"schema": 1, "patches": {}, "series": {}}


def write(folder: Path, text: str | bytes = TEXT, lock: object = None) -> Path:
    (folder / "manifest.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    content = lock if isinstance(lock, bytes) else json.dumps(LOCK if lock is None else lock).encode()
    (folder / "manifest.lock").write_bytes(content)
    return folder


def fault(folder: Path) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        load(folder)
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "bad-manifest")
    return caught.value


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return load(write(tmp_path))


@pytest.mark.parametrize(
    ("version", "kind", "series"),
    [
        ("0.5.6", Kind.SERIES, "0.5.6"),
        ("0.5.6+hpu.1", Kind.SERIES, "0.5.6"),  # a local version matches; its hashes decide
        ("0.5.6.post1", Kind.UNKNOWN, None),
        ("0.5.6rc1", Kind.UNKNOWN, None),
        ("0.5.6.dev3+g123", Kind.UNKNOWN, None),
        ("0.4.1", Kind.SERIES, "older"),
        ("0.4.2.post1", Kind.SERIES, "older"),
        ("0.4.2.dev1+gabc", Kind.SERIES, "older"),
        ("0.4.3", Kind.UNKNOWN, None),
        ("0.3.6", Kind.REFUSED, None),
        ("0.3.7", Kind.UNKNOWN, None),
        ("0.6", Kind.UPSTREAM, None),
        ("1.0.dev1", Kind.UPSTREAM, None),
        ("not a version", Kind.UNKNOWN, None),
        ("", Kind.UNKNOWN, None),
    ],
)
def test_a_version_gets_one_verdict(version: str, kind: Kind, series: str | None, manifest: Manifest) -> None:
    """case_51 case_52: .postN, local, dev and pre-releases, whatever the release of packaging."""
    verdict = manifest.verdict(version)
    assert (verdict.kind, verdict.series and verdict.series.id, verdict.version) == (kind, series, version)


@pytest.mark.parametrize(
    ("version", "nearest"), [("0.5.7", "0.5.6"), ("0.5.0", "older"), ("0.1", "older"), ("9", "0.5.6"), ("x", "older")]
)
def test_the_nearest_series_is_the_newest_not_above(version: str, nearest: str, manifest: Manifest) -> None:
    """case_51"""
    found = manifest.nearest(version)
    assert found is not None
    assert found.id == nearest


def test_without_series_nothing_is_near(tmp_path: Path) -> None:
    empty = load(write(tmp_path, 'schema = 1\npackage = "lmcache"\n'))
    assert empty.nearest("1.0") is None
    assert empty.nearest("x") is None
    assert empty.verdict("1.0").kind is Kind.UNKNOWN


def test_a_refused_version_carries_reason_advice_and_the_nearest(manifest: Manifest) -> None:
    verdict = manifest.verdict("0.3.0")
    assert (verdict.reason, verdict.advice, verdict.nearest and verdict.nearest.id) == (
        "too old",
        "move to 0.4.2",
        "older",
    )


def test_two_series_for_a_version_are_a_fault(tmp_path: Path) -> None:
    both = load(write(tmp_path, TEXT.replace(">=0.4.1,<0.4.3", ">=0.4")))
    with pytest.raises(GaudiPatchError, match=r"0\.5\.6 is claimed by two series: 0\.5\.6 and older") as caught:
        both.verdict("0.5.6")
    assert caught.value.code == "bad-manifest"


def test_what_is_written_is_read(manifest: Manifest) -> None:
    first, second = manifest.series
    assert (first.id, first.patches, first.capabilities, first.notes) == (
        "0.5.6",
        ("common/a.patch", "0.5.6/b.patch"),
        ("fast",),
        "see below",
    )
    assert second.capabilities == ()
    assert manifest.by_id("older") is second
    assert manifest.by_id("none") is None
    assert manifest.pairs == ({"lmcache": "0.5.6", "vllm_gaudi": "0.14.1 to 0.17.1"},)
    assert manifest.patches["common/a.patch"].why == "w"
    assert manifest.capabilities["fast"] == ("fast", "it is fast", "a test", ("kernels",))


@pytest.mark.parametrize(
    ("old", "new", "words", "line_of"),
    [
        ("schema = 1", "schema = 2", "schema: must be 1, not 2", "schema = 2"),
        ("schema = 1", 'schema = "1"', "must be 1", "schema ="),
        ("schema = 1", "", "must be 1, not None", None),
        ("schema = 1", "schema = 1\nnonsense = 1", "nonsense: unknown key", "nonsense"),
        ('package = "lmcache"', "", "package", None),
        ('package = "lmcache"', "package = 5", "package", "package"),
        ('versions = "==0.5.6"', 'versions = "0.5.6"', "no PEP 440 specifier", 'versions = "0.5.6"'),
        ('versions = "==0.5.6"', 'versions = ""', "versions must be a text", None),
        ('notes = "see below"', "typo = 1", "typo: unknown key in [series]", "typo"),
        ('patches = ["common/a.patch", "0.5.6/b.patch"]', "patches = []", "lists no patch", "patches"),
        ('patches = ["common/a.patch", "0.5.6/b.patch"]', "patches = 5", "must be a list of texts", "patches"),
        ('patches = ["common/a.patch", "0.5.6/b.patch"]', 'patches = ["c.patch"]', "c.patch", 'patches = ["c.patch"]'),
        ('capabilities = ["fast"]', 'capabilities = ["slow"]', "no [[capability]] with that id", "capabilities"),
        ('id = "older"', 'id = "0.5.6"', "two series have this name", None),
        ('why = "w"', 'why = " "', "why must be a text that is not empty", None),
        ('remove_when = "r"', "", "remove_when must be a text", None),
        ('[patch."0.5.6/b.patch"]', '[patch."0.5.6/c.patch"]', "b.patch", None),
        ('reason = "too old"', "", "reason must be a text", "[[refused]]"),
        ("[[pairs]]", "[pairs]", "must be a list of tables", "[pairs]"),
        ('vllm_gaudi = "0.14.1', 'vllm = "0.14.1', "vllm: unknown key", "vllm ="),
        ('lmcache = "0.5.6"\n', "", "lmcache must be a text that is not empty", None),
        ("[[refused]]", "[[refuse]]", "refuse: unknown key", "[[refuse]]"),
        ("schema = 1", "schema = 1\nschema = 2", "not valid TOML", "schema = 2"),
        ('package = "lmcache"', 'package = "lmcache', "not valid TOML", 'package = "lmcache'),
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
    assert error.line >= 1
    if line_of is not None:
        lines = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith(line_of)]
        assert error.line in lines


@pytest.mark.parametrize("name", ["/etc/a.patch", "../a.patch", "x/../../a.patch"])
def test_a_patch_outside_of_the_folder_is_a_fault(name: str, tmp_path: Path) -> None:
    """case_18"""
    error = fault(write(tmp_path, TEXT.replace("0.5.6/b.patch", name)))
    assert "must lie below patches/" in error.message


def test_a_patch_that_no_series_uses_is_a_fault(tmp_path: Path) -> None:
    text = TEXT + '\n[patch."unused.patch"]\nwhy = "w"\nupstream = "u"\nremove_when = "r"\n'
    error = fault(write(tmp_path, text))
    assert "unused.patch: no series uses this patch" in error.message


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "schema: must be 1"),
        ({"schema": 2}, "schema: must be 1, not 2"),
        ({"schema": 1}, "does not hold"),
        ({**LOCK, "patches": []}, "does not hold"),
        ({**LOCK, "patches": {"a": 1}}, "does not hold"),
        ({**LOCK, "series": {"a": {}}}, "does not hold"),
        ({**LOCK, "series": {"a": {"patches": [], "files": {"x": ["1"]}}}}, "does not hold"),
        ({**LOCK, "series": {"a": {"patches": 5, "files": {}}}}, "does not hold"),
    ],
    ids=repr,
)
def test_a_lock_that_is_none_is_a_fault(lock: object, words: str, tmp_path: Path) -> None:
    error = fault(write(tmp_path, lock=lock))
    assert words in error.message
    assert error.file == str(tmp_path / "manifest.lock")
    assert "dev lint --write" in error.hint


def test_missing_files_are_faults(tmp_path: Path) -> None:
    assert fault(tmp_path).file == str(tmp_path / "manifest.toml")
    write(tmp_path)
    (tmp_path / "manifest.lock").unlink()
    assert fault(tmp_path).file == str(tmp_path / "manifest.lock")


def test_a_manifest_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    assert "cannot be read" in fault(write(tmp_path, b"\xff")).message


def test_a_lock_of_another_manifest_is_a_fault(manifest: Manifest) -> None:
    with pytest.raises(GaudiPatchError, match=r"no up-to-date entry for series 0\.5\.6"):
        manifest.locked_files(manifest.series[0])


def test_patches_are_held_against_the_lock(tmp_path: Path) -> None:
    """case_26: a file that was converted on checkout is told from one that was edited."""
    made = tiny.make(tmp_path).manifest
    file = made.directory / "tiny.patch"
    data = made.patch_bytes("tiny.patch")
    for changed, words in ((data.replace(b"\n", b"\r\n"), "-text"), (data + b" ", "dev lint"), (b"", "dev lint")):
        file.write_bytes(changed)
        with pytest.raises(GaudiPatchError, match="differs from the sha256") as caught:
            made.patch_bytes("tiny.patch")
        assert words in caught.value.hint
        assert caught.value.file == str(file)
    file.unlink()
    with pytest.raises(GaudiPatchError, match="cannot be read"):
        made.patch_bytes("tiny.patch")


def test_the_copy_of_the_manifest_in_the_lock_counts_only_with_its_hash(tmp_path: Path) -> None:
    """It spares a TOML parser; a manifest that was edited since is parsed itself."""
    write(tmp_path)
    lock = {**LOCK, "manifest": manifests.parsed_copy(tmp_path / "manifest.toml")}
    assert load(write(tmp_path, lock=lock)) == load(write(tmp_path))._replace(lock=lock)
    edited = load(write(tmp_path, TEXT.replace('"too old"', '"edited"'), lock=lock))
    assert edited.refused[0].reason == "edited"


def test_the_built_in_manifest_is_sound() -> None:
    folder = manifests.default_directory()
    built_in = load()
    assert built_in.directory == folder
    assert built_in.package == "lmcache"
    for series in built_in.series:
        assert built_in.locked_files(series)
        assert built_in.verdict(series.versions.removeprefix("==")).series == series
        for name in series.patches:
            built_in.patch_bytes(name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_the_bytes_it_is_a_manifest_or_a_fault(tmp_path: Path, seed: int, toml: bool) -> None:
    """Hostile manifests and locks: cut, repeated, overwritten; never another exception."""
    choose = random.Random(seed)
    lock = {**LOCK, "manifest": {"sha256": "0", "document": {}}}
    data = bytearray(TEXT.encode() if toml else json.dumps(lock).encode())
    for _ in range(choose.randint(1, 4)):
        start = choose.randrange(len(data) + 1)
        end = min(len(data), start + choose.randint(0, 30))
        others = [choose.randbytes(3), b'"', b"[", b"]", b"=", b"\n", b"\x00", b"1e999", b"''", b"[" * 5000]
        data[start:end] = choose.choice([b"", bytes(data[start:end]) * 2, *others])
    write(tmp_path, *((bytes(data),) if toml else (TEXT, bytes(data))))
    with contextlib.suppress(_Fault):
        read = _load(tmp_path)
        for version in ("0.5.6", "0.4.2", "9"):
            read.verdict(version)


class _Fault(Exception):  # noqa: N818
    """A bad manifest, told as one."""


def _load(folder: Path) -> Manifest:
    try:
        return load(folder)
    except GaudiPatchError as error:
        if error.exit is Exit.USAGE and error.code == "bad-manifest":
            raise _Fault from error
        raise
