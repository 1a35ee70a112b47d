"""What `check`, `apply` and `rollback` make of every situation that a tree can be in."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.engine import applied as applied_state
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result
from gaudi_patch.series.manifest import Manifest
from tests.support import scenarios, tiny
from tests.support.fake_wheel import fake_wheel
from tests.support.scenarios import FEW, FEW_PATCHED, NEWER
from tests.support.tiny import Tiny, tree


@pytest.fixture
def few(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)


def refusal(result: Result) -> tuple[Exit, str]:
    """The exit and the code of the one error of a check."""
    (error,) = result.errors
    assert error.exit is result.exit
    return result.exit, error.code


def manifest_without_series(few: Tiny, tmp_path: Path) -> Manifest:
    """A manifest that knows another release only."""
    other = {"lmcache/__init__.py": b"OTHER = 1\n"}
    wheel = fake_wheel(tmp_path / "other-wheels", "9.9.9", other)
    patches = {"9.9.9": {"other.patch": tiny.patch(other, {"lmcache/__init__.py": b"OTHER = 2\n"})}}
    return tiny.write_manifest(tmp_path / "other", patches, {"9.9.9": wheel})


# Partly patched by something else


@pytest.mark.parametrize("patched", [{"lmcache/engine.py"}, {"lmcache/old.py"}, {"lmcache/gaudi/__init__.py"}])
def test_a_partial_state_is_told_per_file_completed_and_taken_back(patched: set[str], few: Tiny) -> None:
    """case_30 case_37 case_38: left by another tool; every file is exactly pristine or patched."""
    pristine = tree(few.site)
    for path in patched:
        _write(few.site / path, FEW_PATCHED[path])
    partial = tree(few.site)
    result = few.check()
    assert refusal(result) == (Exit.REFUSED, "partial")
    assert {one["path"]: one["state"] for one in result.data["files"]} == {
        path: "patched" if path in patched or path == "lmcache/tool.sh" else "pristine" for path in FEW_PATCHED
    }
    assert few.apply(dry_run=True).exit is Exit.OK
    assert tree(few.site) == partial
    assert few.apply().exit is Exit.OK
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]
    assert {name for name in tree(few.site) if not name.endswith(".pyc")} == {
        name for name in pristine if not name.endswith(".pyc")
    }

    for path in patched:
        _write(few.site / path, FEW_PATCHED[path])
    assert few.rollback().exit is Exit.OK
    assert few.check().exit is Exit.PENDING
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]


def test_unchecked_bytecode_of_a_file_that_something_else_patched_does_not_come_back(few: Tiny) -> None:
    """case_46: a .pyc of the patched code beside the pristine source would run after a rollback."""
    engine = few.site / "lmcache/engine.py"
    _write(engine, FEW_PATCHED["lmcache/engine.py"])
    scenarios.compile_all(few.site)
    assert few.apply().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert engine.read_bytes() == FEW["lmcache/engine.py"]
    assert not list((few.site / "lmcache/__pycache__").glob("engine.*"))


def test_patched_by_something_else_is_patched_and_can_be_rolled_back(few: Tiny) -> None:
    """case_29: all hashes are the series': exit 0, nothing written; rollback applies the hunks backwards."""
    for path, data in FEW_PATCHED.items():
        _write(few.site / path, data)
    scenarios.compile_all(few.site)
    before = tree(few.site, times=True)
    result = few.check()
    assert result.exit is Exit.OK
    assert any("something else" in text for text in result.warnings)
    assert few.apply().exit is Exit.OK
    assert tree(few.site, times=True) == before
    assert few.rollback().exit is Exit.OK
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]
    assert not (few.site / "lmcache/gaudi").exists()
    assert few.check().exit is Exit.PENDING


def test_bytecode_that_hides_what_something_else_patched_is_no_success(few: Tiny) -> None:
    """case_46: another tool patched the sources and left unchecked bytecode of the old ones: the old code runs."""
    legacy = few.site / "lmcache/old.pyc"
    legacy.write_bytes(b"legacy")
    for path, data in FEW_PATCHED.items():
        _write(few.site / path, data)
    stale = next((few.site / "lmcache/__pycache__").glob("engine.*"))
    result = few.check()
    assert refusal(result) == (Exit.REFUSED, "stale-bytecode")
    assert result.errors[0].details == [str(stale), str(legacy)]
    assert few.apply(dry_run=True).exit is Exit.OK
    assert stale.exists()
    assert few.apply().exit is Exit.OK
    assert not stale.exists()
    assert not legacy.exists()
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert few.check().exit is Exit.PENDING
    for path in FEW:
        assert (few.site / path).read_bytes() == FEW[path]


def _write(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
        return
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


# Edited by the user


def test_edits_after_apply_are_never_destroyed(few: Tiny, tmp_path: Path) -> None:
    """case_32: refused; --force keeps the edited copy outside of the package, and restores the rest to the byte."""
    before = tree(few.site)
    few.apply()
    engine = few.site / "lmcache/engine.py"
    mine = engine.read_bytes() + b"# mine\n"
    engine.write_bytes(mine)
    edited = tree(few.site, times=True)
    with pytest.raises(GaudiPatchError) as caught:
        few.rollback()
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "edited-since")
    assert caught.value.details == ["modified: lmcache/engine.py"]
    with pytest.raises(GaudiPatchError):
        few.apply()
    assert tree(few.site, times=True) == edited
    (tmp_path / "kept").mkdir()
    result = few.rollback(force=True, save_to=tmp_path / "kept")
    assert result.exit is Exit.OK
    (saved,) = (tmp_path / "kept").iterdir()
    assert saved.name.startswith("engine.py.gaudi-patch-saved-")
    assert saved.read_bytes() == mine
    assert result.data["saved"] == [str(saved)]
    assert tree(few.site) == before


def test_two_edited_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    """case_32: and a second --force over the same edit does not fail on its copy."""
    before = {"lmcache/__init__.py": b"a\n", "lmcache/v1/__init__.py": b"b\n"}
    target = tiny.make(tmp_path, before, {"lmcache/__init__.py": b"A\n", "lmcache/v1/__init__.py": b"B\n"})
    for _ in range(2):
        target.apply()
        for number, path in enumerate(before):
            (target.site / path).write_bytes(b"mine %d\n" % number)
        target.rollback(force=True, save_to=tmp_path)
        saved = sorted(path.read_bytes() for path in tmp_path.glob("*saved*"))
        assert saved == [b"mine 0\n", b"mine 1\n"]
        for path, data in before.items():
            assert (target.site / path).read_bytes() == data


def test_a_place_for_edits_that_is_not_there_changes_nothing(few: Tiny, tmp_path: Path) -> None:
    few.apply()
    (few.site / "lmcache/engine.py").write_bytes(b"mine\n")
    before = tree(few.site, times=True)
    with pytest.raises(GaudiPatchError) as caught:
        few.rollback(force=True, save_to=tmp_path / "nowhere")
    assert caught.value.exit is Exit.ENVIRONMENT
    assert tree(few.site, times=True) == before


def test_a_file_that_is_gone_after_apply_is_restored_only_by_force(few: Tiny, tmp_path: Path) -> None:
    before = tree(few.site)
    few.apply()
    (few.site / "lmcache/engine.py").unlink()
    assert refusal(few.check()) == (Exit.REFUSED, "drift")
    with pytest.raises(GaudiPatchError):
        few.rollback()
    assert few.rollback(force=True, save_to=tmp_path).data["saved"] == []
    assert tree(few.site) == before


def test_a_file_of_the_user_in_a_folder_of_the_series_stays(few: Tiny) -> None:
    """Only what the series made is taken away."""
    few.apply()
    mine = few.site / "lmcache/gaudi/mine.txt"
    mine.write_bytes(b"mine")
    assert few.rollback().exit is Exit.OK
    assert mine.read_bytes() == b"mine"
    assert not (few.site / "lmcache/gaudi/__init__.py").exists()
    assert not (few.site / "lmcache/gaudi/__pycache__").exists()


def test_what_python_cached_since_goes_with_its_module(few: Tiny) -> None:
    """case_46 case_47: every variant, of any interpreter; nothing of a created module stays importable."""
    before = tree(few.site)
    few.apply()
    for folder, stem in (("lmcache/gaudi", "__init__"), ("lmcache", "engine")):
        for tag in ("cpython-310", "cpython-313.opt-2", "pypy310"):
            (few.site / folder / "__pycache__" / f"{stem}.{tag}.pyc").write_bytes(b"cached")
    (few.site / "lmcache/gaudi/__init__.pyc").write_bytes(b"legacy")
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


# What cannot be patched


def test_another_build_of_the_release_is_told_from_an_edit(few: Tiny) -> None:
    """case_14 case_52: RECORD agrees with the file, or it does not: the hint differs."""
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
        os.chdir(engine.parent)  # a socket's path may have 107 bytes only
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
    locked["patches"]["tiny.patch"] = hashlib.sha256(bad).hexdigest()
    locked["series"]["0.5.6"]["files"]["lmcache/__init__.py"][1] = hashlib.sha256(code).hexdigest()
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
    """The result is computed in memory and held against the lock before anything is written."""
    manifest = few.manifest
    files = dict(manifest.lock["series"]["0.5.6"]["files"])
    files["lmcache/engine.py"] = [files["lmcache/engine.py"][0], "0" * 64]
    series = {"0.5.6": {**manifest.lock["series"]["0.5.6"], "files": files}}
    few = replace(few, manifest=_with_lock(manifest, {**manifest.lock, "series": series}))
    before = tree(few.site, times=True)
    with pytest.raises(GaudiPatchError) as caught:
        few.apply()
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "lock-mismatch")
    assert tree(few.site, times=True) == before


def _with_lock(manifest: Manifest, lock: dict[str, object]) -> Manifest:
    from dataclasses import is_dataclass

    return replace(manifest, lock=lock) if is_dataclass(manifest) else manifest._replace(lock=lock)  # type: ignore[attr-defined]


# An unknown version


def test_an_unknown_version_whose_files_fit_is_matched_by_hash(few: Tiny) -> None:
    """case_52: a local or dev build of the same files."""
    info = few.dist_info
    info.rename(info.with_name("lmcache-0.5.6+hpu.1.dist-info"))
    local = replace(few, version="0.5.6+hpu.1")
    result = local.check()
    assert (result.exit, result.data["series"]) == (Exit.PENDING, "0.5.6")
    assert local.apply().exit is Exit.OK
    assert local.rollback().exit is Exit.OK

    dev = replace(few, version="0.5.7.dev3+g1234567")
    (few.site / "lmcache-0.5.6+hpu.1.dist-info").rename(dev.dist_info)
    result = dev.check()
    assert (result.exit, result.data["series"], result.data["matched_by_hash"]) == (Exit.PENDING, "0.5.6", True)


def test_allow_offset_tries_the_nearest_series_with_exact_context(tmp_path: Path) -> None:
    """case_33: only when asked for, and only at a unique position."""
    body = b"".join(b"# line %d\n" % number for number in range(20))
    before = {"lmcache/__init__.py": body}
    target = tiny.make(tmp_path, before, {"lmcache/__init__.py": body.replace(b"line 9\n", b"LINE 9\n")})
    unknown = replace(target, version="0.5.7")
    target.dist_info.rename(unknown.dist_info)
    (target.site / "lmcache/__init__.py").write_bytes(b"# new\n# lines\n" + body)
    pristine = tree(target.site)
    assert refusal(unknown.check()) == (Exit.NOT_FOUND, "unknown-version")
    with pytest.raises(GaudiPatchError):
        unknown.apply()
    planned = unknown.apply(allow_offset=True, dry_run=True)
    assert any("+2" in text for text in planned.warnings)
    assert tree(target.site) == pristine
    assert unknown.apply(allow_offset=True).exit is Exit.OK
    text = (target.site / "lmcache/__init__.py").read_bytes()
    assert text == b"# new\n# lines\n" + body.replace(b"line 9\n", b"LINE 9\n")
    assert unknown.check().exit is Exit.OK
    assert unknown.apply().exit is Exit.OK
    assert unknown.rollback().exit is Exit.OK
    assert tree(target.site) == pristine

    (target.site / "lmcache/__init__.py").write_bytes(b"# new\n" + body + body)
    with pytest.raises(GaudiPatchError) as caught:
        unknown.apply(allow_offset=True)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "does-not-apply")
    assert "not unique" in caught.value.message


def test_a_crlf_target_is_refused_and_never_converted(tmp_path: Path) -> None:
    """case_25"""
    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"a\nb\n"}, {"lmcache/__init__.py": b"a\nB\n"})
    unknown = replace(target, version="0.5.7")
    target.dist_info.rename(unknown.dist_info)
    file = target.site / "lmcache/__init__.py"
    file.write_bytes(b"a\r\nb\r\n")
    with pytest.raises(GaudiPatchError) as caught:
        unknown.apply(allow_offset=True)
    assert "line endings differ" in caught.value.message
    assert file.read_bytes() == b"a\r\nb\r\n"


# The series changes


def test_an_older_series_is_updated_in_one_transaction(tmp_path: Path) -> None:
    """case_35: files of the old series that the new one has not are pristine again; folders that it made go."""
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
    """case_70: the state says applied, the files are pristine, the manifest knows nothing of it."""
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
    """case_59: the state says applied, the hashes say pristine: the hashes are right."""
    few.apply()
    for path in FEW_PATCHED:
        _write(few.site / path, FEW.get(path)) if path in FEW else (few.site / path).unlink()
    assert few.check().exit is Exit.PENDING
    assert few.apply().exit is Exit.OK
    assert few.check().exit is Exit.OK


# State and backups


@pytest.mark.parametrize("how", ["missing", "tampered", "empty"])
def test_a_backup_that_cannot_be_trusted_needs_a_human(how: str, few: Tiny) -> None:
    """case_72: every backup is held against its hash before use; no silent partial rollback."""
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


# RECORD


def test_without_record_it_is_patched_and_rolled_back_with_state_in_dist_info(few: Tiny) -> None:
    """case_62: distribution packages have none; it is not made up."""
    few.record.unlink()
    before = tree(few.site)
    assert few.apply().exit is Exit.OK
    assert not few.record.exists()
    assert few.check().exit is Exit.OK
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before


def test_rows_that_somebody_else_changed_in_record_are_kept_by_a_rollback(few: Tiny) -> None:
    """case_63: RECORD is restored to the byte; where it was changed since, our rows alone are put back."""
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
    from gaudi_patch.engine import rollback

    assert rollback.rollback(few.manifest, installation, rollback.Options()).exit is Exit.OK
    assert tree(few.site) == before


def test_every_file_of_ours_is_listed_in_record(few: Tiny) -> None:
    """case_61: so that pip and uv take it away with the package."""
    from gaudi_patch.engine import record

    few.apply()
    rows = record.entries(few.record.read_bytes())
    for path in few.site.rglob("*"):
        name = path.relative_to(few.site).as_posix()
        if path.is_file() and "__pycache__" not in name and name != "lmcache-0.5.6.dist-info/RECORD":
            assert rows[name] == record.Entry.of(path.read_bytes()), name
    assert "lmcache/old.py" not in rows


def test_the_journal_folder_of_another_kind_is_no_bug(few: Tiny) -> None:
    shutil.rmtree(few.home, ignore_errors=True)
    few.home.write_bytes(b"a file where our folder would be")
    with pytest.raises((GaudiPatchError, OSError)):
        few.apply()
    assert set(few.sides().values()) <= {"pristine", "patched"}
    few.home.unlink()
    assert few.check().exit is Exit.PENDING


# Other verdicts


def with_rules(few: Tiny, text: str) -> Tiny:
    """The manifest with rules for versions added."""
    from gaudi_patch.series.manifest import load

    file = few.manifest.directory / "manifest.toml"
    file.write_text(file.read_text() + text)
    return replace(few, manifest=load(few.manifest.directory))


def test_a_version_that_needs_nothing_exits_0_and_is_left_alone(few: Tiny) -> None:
    """case_51: upstream has it."""
    newer = replace(with_rules(few, '[[upstream]]\nversions = ">=0.6"\nreason = "upstream has it"\n'), version="0.6.0")
    (few.site / "lmcache/engine.py").write_bytes(b"# of 0.6.0\n")
    few.dist_info.rename(newer.dist_info)
    before = tree(few.site, times=True)
    assert newer.check().exit is Exit.OK
    assert newer.apply().data["changed"] is False
    assert newer.rollback().data["changed"] is False
    assert tree(few.site, times=True) == before


def test_a_refused_version_exits_3_with_the_advice(few: Tiny) -> None:
    """case_51"""
    text = '[[refused]]\nversions = "<0.4"\nreason = "too old"\nadvice = "move to 0.5.6"\n'
    older = replace(with_rules(few, text), version="0.3.0")
    (few.site / "lmcache/engine.py").write_bytes(b"# of 0.3.0\n")
    few.dist_info.rename(older.dist_info)
    assert refusal(older.check()) == (Exit.NOT_FOUND, "refused-version")
    with pytest.raises(GaudiPatchError, match="too old") as caught:
        older.apply()
    assert (caught.value.exit, caught.value.hint) == (Exit.NOT_FOUND, "move to 0.5.6")


def test_the_plan_can_be_read_as_one_diff(few: Tiny) -> None:
    """What is printed turns the old files into the new ones."""
    from gaudi_patch.output.report import Diff

    planned = few.apply(dry_run=True, diff=True)
    (shown,) = [block for block in planned.blocks if isinstance(block, Diff)]
    assert "--- a/lmcache/engine.py\n+++ b/lmcache/engine.py\n" in shown.text
    assert "-    return 'cuda'\n+    return 'hpu'\n" in shown.text
    assert "--- a/lmcache/old.py\n+++ /dev/null\n" in shown.text
    assert "--- /dev/null\n+++ b/lmcache/gaudi/__init__.py\n" in shown.text
    applied = few.apply(diff=True)
    assert [block for block in applied.blocks if isinstance(block, Diff)] == [shown]
    assert not [block for block in few.apply(diff=True).blocks if isinstance(block, Diff)]


def test_a_diff_says_where_a_newline_is_missing(tmp_path: Path) -> None:
    """case_27"""
    from gaudi_patch.output.report import Diff

    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"A = 1"}, {"lmcache/__init__.py": b"A = 2\n"})
    (shown,) = [block for block in target.apply(dry_run=True, diff=True).blocks if isinstance(block, Diff)]
    assert "-A = 1\n\\ No newline at end of file\n+A = 2\n" in shown.text


def test_record_that_vanishes_before_apply_is_not_made_up(few: Tiny) -> None:
    """case_62: found by locate, gone under the lock."""
    installation = few.installation
    few.record.unlink()
    before = tree(few.site)
    from gaudi_patch.engine import apply, rollback

    assert apply.apply(few.manifest, installation, apply.Options()).exit is Exit.OK
    assert not few.record.exists()
    assert rollback.rollback(few.manifest, installation, rollback.Options()).exit is Exit.OK
    assert tree(few.site) == before
