"""Files that the user has edited or removed since apply."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.situations import refusal
from tests.support import tiny
from tests.support.tiny import Tiny, tree


def test_edits_after_apply_are_never_destroyed(few: Tiny, tmp_path: Path) -> None:
    """case_32: refused; --force saves the edited copy outside the package, and restores the rest to the byte."""
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
    """case_32: a second --force for the same edit does not fail on its earlier copy."""
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
    """Only what the series created is removed."""
    few.apply()
    mine = few.site / "lmcache/gaudi/mine.txt"
    mine.write_bytes(b"mine")
    assert few.rollback().exit is Exit.OK
    assert mine.read_bytes() == b"mine"
    assert not (few.site / "lmcache/gaudi/__init__.py").exists()
    assert not (few.site / "lmcache/gaudi/__pycache__").exists()


def test_what_python_cached_since_goes_with_its_module(few: Tiny) -> None:
    """case_46 case_47: every variant of any interpreter is removed; no created module stays importable."""
    before = tree(few.site)
    few.apply()
    for folder, stem in (("lmcache/gaudi", "__init__"), ("lmcache", "engine")):
        for tag in ("cpython-310", "cpython-313.opt-2", "pypy310"):
            (few.site / folder / "__pycache__" / f"{stem}.{tag}.pyc").write_bytes(b"cached")
    (few.site / "lmcache/gaudi/__init__.pyc").write_bytes(b"legacy")
    assert few.rollback().exit is Exit.OK
    assert tree(few.site) == before
