"""Runs by users without rights, and by owners of the package."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.transactions import root_only
from tests.support import tiny
from tests.support.faults import in_child
from tests.support.tiny import Tiny, tree


def _as_nobody(work: Callable[[], None]) -> Callable[[], None]:
    def inner() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        work()

    return inner


@root_only
@pytest.mark.parametrize("owned", [[], ["lmcache/engine.py"]])
def test_a_user_without_rights_changes_nothing(owned: list[str], tmp_path: Path) -> None:
    """case_7: root's package; not even a file that the user owns in root's directory is written in place."""
    target = _open_for_nobody(tiny.make(tmp_path), tmp_path)
    for name in owned:
        os.chown(target.site / name, 65534, 65534)
    before = tree(target.site, times=True)

    def work() -> None:
        for dry_run in (False, True):
            with pytest.raises(GaudiPatchError) as caught:
                target.apply(dry_run=dry_run)
            error = caught.value
            assert (error.exit, error.code) == (Exit.ENVIRONMENT, "eacces")
            assert "65534" in error.hint
            assert str(target.site) in error.file
        assert target.check().exit is Exit.PENDING

    assert in_child(_as_nobody(work)) == 0
    assert tree(target.site, times=True) == before


@root_only
def test_a_user_patches_and_rolls_back_his_own_package(tmp_path: Path) -> None:
    """case_7: without root; another user's file in his directory becomes his, as he cannot give files away."""
    target = _open_for_nobody(tiny.make(tmp_path), tmp_path)
    for path in [target.site, *target.site.rglob("*")]:
        os.lchown(path, 65534, 65534)
    os.chown(target.site / "lmcache/engine.py", 0, 0)
    before = tree(target.site)

    def work() -> None:
        assert target.apply().exit is Exit.OK
        assert target.check().exit is Exit.OK
        assert target.rollback().exit is Exit.OK
        assert tree(target.site) == before

    assert in_child(_as_nobody(work)) == 0
    assert tree(target.site) == before


def _open_for_nobody(target: Tiny, tmp_path: Path) -> Tiny:
    """Make the path to the target passable (pytest's own directories are 0700), and import everything beforehand."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    target.apply(dry_run=True)  # imports all modules, which nobody may not read here
    return target


@contextmanager
def _immutable(path: Path) -> Iterator[None]:
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@root_only
@pytest.mark.parametrize("name", ["lmcache/engine.py", "lmcache/v1/old.py", "lmcache/v1"])
def test_what_is_immutable_undoes_the_run_and_is_named(name: str, tmp_path: Path) -> None:
    """case_6: chattr +i on a file to replace, one to delete, and a directory to write to; not even root can."""
    target = tiny.make(tmp_path)
    before = tree(target.site)
    with _immutable(target.site / name), pytest.raises(GaudiPatchError) as caught:
        target.apply()
    error = caught.value
    assert (error.exit, error.file.startswith(str(target.site / name))) == (Exit.ENVIRONMENT, True)
    assert "lsattr" in error.hint
    assert tree(target.site) == before
    assert target.apply().exit is Exit.OK
    patched = tree(target.site)
    kept = name if (target.site / name).exists() else "lmcache"
    with _immutable(target.site / kept), pytest.raises(GaudiPatchError) as caught:
        target.rollback()
    assert caught.value.exit is Exit.ENVIRONMENT
    assert tree(target.site) == patched
    assert target.rollback().exit is Exit.OK
    assert tree(target.site) == before
