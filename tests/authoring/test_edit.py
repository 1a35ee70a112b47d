"""`dev edit` and `dev refresh`: a series as commits and back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, lint, port
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import load
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
        "Route",
        "Runtime",
        "lmcache-1.0.0-py3-none-any.whl",
    ]
    assert "line_5 = 'hpu'" in (tmp_path / "w/lmcache/engine.py").read_text()


def test_refresh_of_an_unchanged_worktree_writes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    before = kept(shelf)
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    assert edit.refresh(tmp_path / "w", shelf.directory).data["patches_written"] == []
    assert kept(shelf) == before


def test_an_amended_commit_comes_back_as_its_patch_and_the_lock_follows(shelf: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    file = tmp_path / "w/lmcache/engine.py"
    file.write_text(file.read_text().replace("line_10 = 10", "line_10 = 'ten'"))
    git(tmp_path / "w", "commit", "--quiet", "--all", "--amend", "--no-edit")
    result = edit.refresh(tmp_path / "w", shelf.directory)
    assert result.data["patches_written"] == ["1.0.0/route.patch"]
    assert b"+line_10 = 'ten'\n" in (shelf.directory / "1.0.0/route.patch").read_bytes()
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK


def test_a_shared_patch_keeps_the_line_numbers_of_the_release_that_it_was_made_for(
    shelf: Shelf, tmp_path: Path
) -> None:
    moved = shelf.release("1.0.1", {**BASE, "lmcache/engine.py": "moved = True\n" + ENGINE})
    port.port("1.0.0", "1.0.1", tmp_path / "ported", shelf.directory, port.Options(smoke=False))
    before = kept(shelf)
    edit.edit("1.0.1", tmp_path / "w", shelf.directory, moved)
    assert edit.refresh(tmp_path / "w", shelf.directory).data["patches_written"] == []
    assert kept(shelf) == before


def test_uncommitted_edits_are_refused_and_nothing_is_written(shelf: Shelf, tmp_path: Path) -> None:
    before = kept(shelf)
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    (tmp_path / "w/lmcache/new.py").write_text("")
    with pytest.raises(GaudiPatchError, match="not committed"):
        edit.refresh(tmp_path / "w", shelf.directory)
    assert kept(shelf) == before


@pytest.mark.parametrize(
    ("message", "code"), [("More", "unnamed-patch"), ("More\n\nPatch: 1.0.0/more.patch", "series-differs")]
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


def test_lint_fails_on_a_patch_that_the_lock_does_not_know(shelf: Shelf) -> None:
    file = shelf.directory / "1.0.0/route.patch"
    file.write_bytes(file.read_bytes().replace(b"'hpu'", b"'HPU'"))
    assert lint.lint(shelf.directory, write=False).exit is Exit.USAGE


def test_lint_refuses_a_diff_that_no_series_uses(shelf: Shelf) -> None:
    (shelf.directory / "common/left.patch").write_bytes((shelf.directory / "1.0.0/route.patch").read_bytes())
    with pytest.raises(GaudiPatchError, match=r"no series uses common/left\.patch"):
        lint.lint(shelf.directory, write=True)


@pytest.mark.parametrize(
    ("lmcache", "vllm_gaudi", "words"),
    [(">=1.0", "from 0.13 on", "not a range of versions"), (">=1.0", "0.13 to x", "x"), ("one", "0.13", "one")],
)
def test_lint_refuses_pairs_that_nobody_can_read(shelf: Shelf, lmcache: str, vllm_gaudi: str, words: str) -> None:
    with (shelf.directory / "manifest.toml").open("a") as stream:
        stream.write(f'\n[[pairs]]\nlmcache = "{lmcache}"\nvllm_gaudi = "{vllm_gaudi}"\n')
    with pytest.raises(GaudiPatchError, match=words) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.code == "bad-manifest"


def test_lint_refuses_a_release_with_two_series(shelf: Shelf) -> None:
    file = shelf.directory / "manifest.toml"
    text = file.read_text()
    entry = text[text.index("[[series]]") : text.index("[patch.")]
    file.write_text(text.replace(entry, entry + entry.replace("[[series]]", '[[series]]\nid = "again"')))
    with pytest.raises(GaudiPatchError, match="claimed by two series"):
        lint.lint(shelf.directory, write=True)


@pytest.mark.parametrize("key", ["why", "upstream", "remove_when"])
def test_lint_refuses_a_patch_without_its_reasons(shelf: Shelf, key: str) -> None:
    file = shelf.directory / "manifest.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(f"{key} =")]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(GaudiPatchError, match=key):
        lint.lint(shelf.directory, write=True)


def test_lint_counts_the_lines_that_a_series_changes_in_the_release(shelf: Shelf) -> None:
    # One line replaced and one removed; the module that the series adds does not count.
    assert lint.lint(shelf.directory, write=False).data["routing_lines"] == {"1.0.0": 3}


def test_lint_refuses_a_series_that_does_not_apply_to_its_wheel(shelf: Shelf) -> None:
    file = shelf.directory / "1.0.0/route.patch"
    file.write_bytes(file.read_bytes().replace(b" line_4 = 4\n", b" line_4 = 44\n"))
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.code == "does-not-apply"


def test_lint_refuses_a_series_whose_result_does_not_compile(shelf: Shelf) -> None:
    file = shelf.directory / "1.0.0/route.patch"
    file.write_bytes(file.read_bytes().replace(b"+line_5 = 'hpu'\n", b"+line_5 = 'hpu\n"))
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.code == "not-python"


def test_the_lock_keeps_the_parsed_manifest_and_a_changed_manifest_is_read_anew(shelf: Shelf) -> None:
    lock = json.loads((shelf.directory / "manifest.lock").read_bytes())
    assert lock["manifest"]["document"]["series"][0]["versions"] == "==1.0.0"
    file = shelf.directory / "manifest.toml"
    file.write_text(file.read_text().replace('why = "because"', 'why = "another reason"'))
    assert {patch.why for patch in load(shelf.directory).patches.values()} == {"another reason"}
