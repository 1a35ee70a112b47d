"""The series changes between two runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from tests.engine.situations import _write, refusal
from tests.support import scenarios, tiny
from tests.support.fake_wheel import fake_wheel
from tests.support.scenarios import FEW, FEW_PATCHED, NEWER
from tests.support.tiny import Tiny, tree


def manifest_without_series(few: Tiny, tmp_path: Path) -> Manifest:
    """Return a manifest that knows only another release."""
    other = {"lmcache/__init__.py": b"OTHER = 1\n"}
    wheel = fake_wheel(tmp_path / "other-wheels", "9.9.9", other)
    patches = {"9.9.9": {"other.patch": tiny.patch(other, {"lmcache/__init__.py": b"OTHER = 2\n"})}}
    return tiny.write_manifest(tmp_path / "other", patches, {"9.9.9": wheel})


def test_an_older_series_is_updated_in_one_transaction(tmp_path: Path) -> None:
    """case_35: files only in the old series become pristine again; the directories that it created are removed."""
    target = scenarios.outdated(tmp_path)
    result = target.check()
    assert (result.exit, result.data["state"]) == (Exit.PENDING, "outdated")
    assert target.apply().exit is Exit.OK
    assert target.check().exit is Exit.OK
    for path, data in NEWER.items():
        assert (target.site / path).read_bytes() == data
    assert not (target.site / "lmcache/gaudi").exists()
    assert target.rollback().exit is Exit.OK
    for path, data in FEW.items():
        assert (target.site / path).read_bytes() == data
    fresh = scenarios.few(tmp_path / "fresh")
    assert set(tree(target.site)) == set(tree(fresh.site))
    assert target.record.read_bytes() == fresh.record.read_bytes()


def test_an_update_over_links_reads_the_pristine_bytes(tmp_path: Path) -> None:
    """case_15 case_35: the pristine side is a link; its bytes come from the backup."""
    linked = scenarios.linked(tmp_path)
    before = tree(linked.site)
    linked.apply()
    patches = {"0.5.6": {"newer.patch": tiny.patch(FEW, NEWER)}}
    wheels = {"0.5.6": fake_wheel(tmp_path / "wheels", "0.5.6", dict(FEW))}
    newer = replace(linked, manifest=tiny.write_manifest(tmp_path / "newer", patches, wheels), patched=NEWER)
    assert newer.apply().exit is Exit.OK
    assert newer.check().exit is Exit.OK
    assert newer.rollback().exit is Exit.OK
    assert tree(newer.site) == before


def test_a_series_that_the_manifest_no_longer_has_is_rolled_back_from_its_state(few: Tiny, tmp_path: Path) -> None:
    """case_70"""
    before = tree(few.site)
    few.apply()
    dropped = replace(few, manifest=manifest_without_series(few, tmp_path))
    result = dropped.check()
    assert result.exit is Exit.OK
    assert any("no longer has it" in text for text in result.warnings)
    assert dropped.apply().data["changed"] is False
    assert dropped.rollback().exit is Exit.OK
    assert tree(few.site) == before
    assert refusal(dropped.check()) == (Exit.NOT_FOUND, "unknown-version")


def test_a_dropped_series_whose_files_were_put_back_by_hand_is_no_bug(few: Tiny, tmp_path: Path) -> None:
    """case_70: the state says applied, the files are pristine, and the manifest lacks the series."""
    few.apply()
    for path in FEW_PATCHED:
        _write(few.site / path, FEW.get(path)) if path in FEW else (few.site / path).unlink()
    dropped = replace(few, manifest=manifest_without_series(few, tmp_path))
    assert refusal(dropped.check()) == (Exit.NOT_FOUND, "unknown-version")
    with pytest.raises(GaudiPatchError) as caught:
        dropped.apply()
    assert (caught.value.exit, caught.value.code) == (Exit.NOT_FOUND, "unknown-version")
    assert dropped.rollback().exit is Exit.OK
    assert not dropped.state_dir.exists()


def test_files_put_back_by_hand_are_patched_again(few: Tiny) -> None:
    """case_59: the state says applied, the hashes say pristine: the hashes win."""
    few.apply()
    for path in FEW_PATCHED:
        _write(few.site / path, FEW.get(path)) if path in FEW else (few.site / path).unlink()
    assert few.check().exit is Exit.PENDING
    assert few.apply().exit is Exit.OK
    assert few.check().exit is Exit.OK
