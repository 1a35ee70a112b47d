"""Modes, owners, times and links of replaced files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gaudi_patch.errors import GaudiPatchError
from tests.engine.transactions import Hook, _raise, at, root_only
from tests.support import tiny
from tests.support.tiny import tree


def test_created_files_and_folders_take_no_umask(tmp_path: Path) -> None:
    """case_9: created files get the patch's modes, whatever the umask; a modified file keeps its own."""
    target = tiny.make(tmp_path)
    (target.site / "lmcache/engine.py").chmod(0o640)
    old = os.umask(0o077)
    try:
        target.apply()
    finally:
        os.umask(old)

    def mode(path: str) -> int:
        return stat.S_IMODE((target.site / path).stat().st_mode)

    assert mode("lmcache/engine.py") == 0o640
    assert mode("lmcache/gaudi") == 0o755
    assert mode("lmcache/gaudi/kernels.py") == 0o644
    assert mode("lmcache/tool.sh") == 0o755
    assert mode(f"{target.dist_info.name}/RECORD") == 0o644
    assert mode(f"{target.dist_info.name}/gaudi-patch/state.json") == 0o644


def test_a_set_gid_folder_hands_its_bit_down(tmp_path: Path) -> None:
    """case_9"""
    target = tiny.make(tmp_path)
    (target.site / "lmcache").chmod(0o2775)
    target.apply()
    assert (target.site / "lmcache/gaudi").stat().st_mode & stat.S_ISGID


@root_only
def test_owner_and_group_are_kept_and_created_files_belong_to_the_packages_owner(tmp_path: Path) -> None:
    """case_8: root applies to a user's environment."""
    target = tiny.make(tmp_path)
    for path in [target.site, *target.site.rglob("*")]:
        os.lchown(path, 1234, 2345)
    odd = target.site / "lmcache/engine.py"
    os.chown(odd, 1000, 1001)
    before = {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")}
    target.apply()
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")}
    assert owners[odd] == (1000, 1001)
    assert {owner for path, owner in owners.items() if path != odd} == {(1234, 2345)}
    target.rollback()
    assert {path: (path.stat().st_uid, path.stat().st_gid) for path in target.site.rglob("*")} == before


def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    """case_8: SELinux labels are extended attributes; a user attribute stands for them here."""
    target = tiny.make(tmp_path)
    engine = target.site / "lmcache/engine.py"
    try:
        os.setxattr(engine, "user.label", b"gaudi")
    except OSError as error:
        pytest.skip(f"this file system keeps no extended attributes: {error}")
    target.apply()
    assert os.getxattr(engine, "user.label") == b"gaudi"
    with pytest.raises(GaudiPatchError):
        target.rollback(Hook("fsync-dir", at(engine.parent), _raise(OSError(5, "I/O"))))
    assert os.getxattr(engine, "user.label") == b"gaudi"
    target.rollback()
    assert os.getxattr(engine, "user.label") == b"gaudi"


def test_hardlinked_files_are_replaced_and_never_written_through(tmp_path: Path) -> None:
    """case_13: uv and conda hardlink installed files to their caches."""
    target = tiny.make(tmp_path)
    cache = tmp_path / "cache"
    for path in target.site.rglob("*"):
        if path.is_file():
            link = cache / path.relative_to(target.site)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
    before = tree(cache, times=True)
    inodes = {path: path.stat().st_ino for path in cache.rglob("*")}
    target.apply()
    assert (target.site / "lmcache/engine.py").stat().st_nlink == 1
    target.rollback()
    assert tree(cache, times=True) == before
    assert {path: path.stat().st_ino for path in cache.rglob("*")} == inodes
    backups = [path for path in target.site.rglob("*") if path.is_file() and "backup" in path.parts]
    assert not backups


def test_mtimes_of_restored_files_are_those_before(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    for number, path in enumerate(sorted(target.site.rglob("*.py"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    before = {path: path.stat().st_mtime_ns for path in target.site.rglob("*") if path.is_file()}
    target.apply()
    target.rollback()
    assert {path: path.stat().st_mtime_ns for path in target.site.rglob("*") if path.is_file()} == before
