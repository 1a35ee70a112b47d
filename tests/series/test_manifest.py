"""The manifest as a run reads it: verdicts for versions, and patches compared with the lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.manifest import Kind, Manifest, Pair, load
from tests.support import tiny
from tests.support.manifests import TEXT, made


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return made(tmp_path)


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
    empty = made(tmp_path, 'schema = 2\npackage = "lmcache"\n')
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
    both = made(tmp_path, TEXT.replace(">=0.4.1,<0.4.3", ">=0.4"))
    with pytest.raises(GaudiPatchError, match=r"0\.5\.6 is claimed by two series: 0\.5\.6 and older") as caught:
        both.verdict("0.5.6")
    assert caught.value.code == "bad-manifest"


def test_what_is_written_is_read(manifest: Manifest) -> None:
    first, second = manifest.series
    assert (first.id, first.patches, first.capabilities, first.notes) == (
        "0.5.6",
        ("runtime/a.patch", "adapter/b.patch"),
        ("fast",),
        "see below",
    )
    assert second.capabilities == ()
    assert manifest.by_id("older") is second
    assert manifest.by_id("none") is None
    assert manifest.pairs == (Pair("==0.5.6", (">=0.14.1,<=0.17.1",)),)
    assert manifest.patches["runtime/a.patch"][:5] == ("runtime/a.patch", "t", "w", "u", "r")
    assert manifest.capabilities["fast"] == ("fast", "it is fast", "a test", ("kernels",))


def test_a_run_needs_the_lock_and_the_patches_alone(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    target.manifest.file.unlink()
    again = load(target.manifest.directory)
    assert again == target.manifest
    assert again.file.name == "manifest.lock"
    assert target.apply().data["changed"]


def test_patches_are_compared_with_the_lock(tmp_path: Path) -> None:
    """case_26: a file that a checkout converted is told apart from an edited one."""
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
