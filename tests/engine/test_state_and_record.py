"""State, backups and RECORD."""

from __future__ import annotations

import shutil

import pytest

from gaudi_patch.engine import applied as applied_state
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support.scenarios import FEW
from tests.support.tiny import Tiny, tree


@pytest.mark.parametrize("how", ["missing", "tampered", "empty"])
def test_a_backup_that_cannot_be_trusted_needs_a_human(how: str, few: Tiny) -> None:
    """case_72: every backup is compared with its hash before use; no silent partial rollback."""
    few.apply()
    import hashlib

    backup = few.state_dir / "backup" / hashlib.sha256(FEW["lmcache/engine.py"]).hexdigest()
    if how == "missing":
        backup.unlink()
    else:
        backup.write_bytes(b"tampered" if how == "tampered" else b"")
    before = tree(few.site, times=True)
    for force in (False, True):
        with pytest.raises(GaudiPatchError) as caught:
            few.rollback(force=force)
        assert (caught.value.exit, caught.value.code, caught.value.file) == (
            Exit.HUMAN,
            "state-damaged",
            str(backup),
        )
        assert "--force-reinstall" in caught.value.hint
    assert tree(few.site, times=True) == before
    assert few.check().exit is Exit.OK


def test_state_of_a_newer_gaudi_patch_is_not_guessed_at(few: Tiny) -> None:
    """case_71"""
    few.apply()
    file = few.state_dir / applied_state.STATE_FILE
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    before = tree(few.site, times=True)
    for verb in (few.check, few.apply, few.rollback):
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "state-newer")
        assert "upgrade gaudi-patch" in caught.value.hint
    assert tree(few.site, times=True) == before


@pytest.mark.parametrize("path", ["../outside.py", "lmcache/../../outside.py", "/etc/passwd", "other/x.py"])
def test_state_that_leads_out_of_the_package_is_refused(path: str, few: Tiny) -> None:
    """case_20 case_72"""
    few.apply()
    file = few.state_dir / applied_state.STATE_FILE
    file.write_text(file.read_text().replace('"lmcache/engine.py"', f'"{path}"'))
    before = tree(few.site, times=True)
    for verb in (few.check, few.rollback):
        with pytest.raises(GaudiPatchError):
            verb()
    assert tree(few.site, times=True) == before


def test_without_record_it_is_patched_and_rolled_back_with_state_in_dist_info(few: Tiny) -> None:
    """case_62: distribution packages have no RECORD; none is invented."""
    few.record.unlink()
    before = tree(few.site)
    assert few.apply().exit is Exit.OK
    assert not few.record.exists()
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_rows_that_somebody_else_changed_in_record_are_kept_by_a_rollback(few: Tiny) -> None:
    """case_63: RECORD is restored to the byte; if it was changed since, only gaudi-patch's rows are restored."""
    original = few.record.read_bytes()
    few.apply()
    few.record.write_bytes(few.record.read_bytes() + b"lmcache/theirs.py,,\r\n")
    few.rollback()
    rows = sorted(few.record.read_bytes().splitlines(keepends=True))
    assert rows == sorted([*original.splitlines(keepends=True), b"lmcache/theirs.py,,\r\n"])


def test_record_that_vanished_after_apply_is_restored(few: Tiny) -> None:
    """case_62"""
    before = tree(few.site)
    installation = few.installation
    few.apply()
    few.record.unlink()
    from gaudi_patch.engine.rollback import RollbackOptions, rollback

    assert rollback(few.manifest, installation, RollbackOptions()).changed
    assert tree(few.site) == before


def test_every_file_of_ours_is_listed_in_record(few: Tiny) -> None:
    """case_61: so that pip and uv remove it with the package."""
    from gaudi_patch.engine import record

    few.apply()
    rows = record.selected(few.record.read_bytes(), lambda _: True)
    for path in few.site.rglob("*"):
        name = path.relative_to(few.site).as_posix()
        if path.is_file() and "__pycache__" not in name and name != "lmcache-0.5.6.dist-info/RECORD":
            assert rows[name] == record.Entry.of(path.read_bytes()), name
    assert "lmcache/old.py" not in rows


def test_the_journal_folder_of_another_kind_is_no_bug(few: Tiny) -> None:
    shutil.rmtree(few.home, ignore_errors=True)
    few.home.write_bytes(b"a file where our directory would be")
    with pytest.raises((GaudiPatchError, OSError)):
        few.apply()
    assert set(few.sides().values()) <= {"pristine", "patched"}
    few.home.unlink()
    assert few.check().exit is Exit.PENDING


def test_record_that_vanishes_before_apply_is_not_made_up(few: Tiny) -> None:
    """case_62: found by locate, gone once the lock is held."""
    installation = few.installation
    few.record.unlink()
    before = tree(few.site)
    from gaudi_patch.engine.apply import ApplyOptions, apply
    from gaudi_patch.engine.rollback import RollbackOptions, rollback

    assert apply(few.manifest, installation, ApplyOptions()).changed
    assert not few.record.exists()
    assert rollback(few.manifest, installation, RollbackOptions()).changed
    assert tree(few.site) == before
