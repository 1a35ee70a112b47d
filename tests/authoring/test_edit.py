"""`dev edit` and `dev refresh`: a series as commits and back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, lint, port
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.authoring.conftest import BASE, ENGINE, Shelf


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def kept(shelf: Shelf) -> dict[str, bytes]:
    return {
        str(path.relative_to(shelf.directory)): path.read_bytes()
        for path in shelf.directory.rglob("*")
        if path.is_file()
    }


def test_edit_gives_one_commit_a_patch_on_the_pristine_wheel(shelf: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    assert git(tmp_path / "w", "log", "--format=%s").splitlines() == [
        "The route",
        "The runtime",
        "lmcache-1.0.0-py3-none-any.whl",
    ]
    assert "line_5 = 'hpu'" in (tmp_path / "w/lmcache/engine.py").read_text()


def test_refresh_of_an_unchanged_worktree_writes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    before = kept(shelf)
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    assert edit.refresh(tmp_path / "w", shelf.directory).written == ()
    assert kept(shelf) == before


def test_an_amended_commit_comes_back_as_its_patch_and_the_lock_follows(shelf: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    file = tmp_path / "w/lmcache/engine.py"
    file.write_text(file.read_text().replace("line_10 = 10", "line_10 = 'ten'"))
    git(tmp_path / "w", "commit", "--quiet", "--all", "--amend", "--no-edit")
    result = edit.refresh(tmp_path / "w", shelf.directory)
    assert result.written == ("route/1.0.0.patch",)
    assert b"+line_10 = 'ten'\n" in (shelf.directory / "route/1.0.0.patch").read_bytes()
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK


def test_a_shared_patch_keeps_the_line_numbers_of_the_release_that_it_was_made_for(
    shelf: Shelf, tmp_path: Path
) -> None:
    moved = shelf.release("1.0.1", {**BASE, "lmcache/engine.py": "moved = True\n" + ENGINE})
    port.port("1.0.0", "1.0.1", tmp_path / "ported", shelf.directory, port.PortOptions(smoke=False))
    before = kept(shelf)
    edit.edit("1.0.1", tmp_path / "w", shelf.directory, moved)
    assert edit.refresh(tmp_path / "w", shelf.directory).written == ()
    assert kept(shelf) == before


def test_uncommitted_edits_are_refused_and_nothing_is_written(shelf: Shelf, tmp_path: Path) -> None:
    before = kept(shelf)
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    (tmp_path / "w/lmcache/new.py").write_text("")
    with pytest.raises(GaudiPatchError, match="has uncommitted changes"):
        edit.refresh(tmp_path / "w", shelf.directory)
    assert kept(shelf) == before


@pytest.mark.parametrize(
    ("message", "code"), [("More", "unnamed-patch"), ("More\n\nPatch: more/1.0.0.patch", "series-differs")]
)
def test_a_commit_that_the_manifest_does_not_list_is_refused(
    shelf: Shelf, tmp_path: Path, message: str, code: str
) -> None:
    before = kept(shelf)
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    (tmp_path / "w/lmcache/new.py").write_text("")
    git(tmp_path / "w", "add", "--all")
    git(tmp_path / "w", "commit", "--quiet", "-m", message)
    with pytest.raises(GaudiPatchError) as caught:
        edit.refresh(tmp_path / "w", shelf.directory)
    assert caught.value.code == code
    assert kept(shelf) == before


def test_a_folder_in_use_is_never_overwritten(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w/mine").write_text("x")
    with pytest.raises(GaudiPatchError, match="not empty"):
        edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["mine"]


def test_a_folder_that_is_no_worktree_is_told_as_one(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError) as caught:
        edit.refresh(tmp_path, shelf.directory)
    assert caught.value.exit is Exit.USAGE


def test_a_directory_whose_name_the_git_library_would_change_is_refused(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitPython expands $NAME in a path as a variable: git would have run in another directory."""
    monkeypatch.setenv("ELSEWHERE", "other")
    for run in (
        lambda: edit.edit("1.0.0", tmp_path / "$ELSEWHERE/w", shelf.directory),
        lambda: edit.refresh(tmp_path / "$ELSEWHERE", shelf.directory),
        lambda: port.port(
            "1.0.0",
            "1.0.1",
            tmp_path / "$ELSEWHERE",
            shelf.directory,
            port.PortOptions(shelf.wheel("1.0.0"), smoke=False),
        ),
    ):
        with pytest.raises(GaudiPatchError) as caught:
            run()
        assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "bad-directory")
    assert not list(tmp_path.glob("*ELSEWHERE")) + list(tmp_path.glob("other"))
