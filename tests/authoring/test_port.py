"""`dev port` and `dev lint --wheel`: a series on the next release."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import lint, port
from gaudi_patch.authoring.watch import watch
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.manifest import load
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed


def kept(shelf: Shelf) -> dict[str, bytes]:
    return {
        str(path.relative_to(shelf.directory)): path.read_bytes()
        for path in shelf.directory.rglob("*")
        if path.is_file()
    }


def series(shelf: Shelf, name: str) -> tuple[str, ...]:
    found = load(shelf.directory).by_id(name)
    assert found is not None
    return found.patches


def test_moved_lines_merge_and_the_patch_stays_shared(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": "moved = True\n" + ENGINE})
    result = port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory)
    assert result.exit is Exit.OK
    assert series(shelf, "1.0.1") == ("common/runtime.patch", "1.0.0/route.patch")
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK


def test_changed_context_gives_the_release_a_patch_of_its_own(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_3 = 3\n", "line_3 = 'three'\n"))})
    result = port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory)
    assert result.data["new"] == ["1.0.1/route.patch"]
    assert series(shelf, "1.0.1") == ("common/runtime.patch", "1.0.1/route.patch")
    manifest = load(shelf.directory)
    assert manifest.patches["1.0.1/route.patch"].why == "because"
    assert "# kept" in (shelf.directory / "manifest.toml").read_text()


def test_what_upstream_has_is_dropped_and_said(shelf: Shelf, tmp_path: Path) -> None:
    there = changed(ENGINE, ("line_5 = 5\n", "line_5 = 'hpu'\n"), ("line_25 = 25\n", ""))
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": there})
    result = port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory)
    assert result.data["dropped"] == ["1.0.0/route.patch"]
    assert series(shelf, "1.0.1") == ("common/runtime.patch",)


@pytest.fixture
def conflict(shelf: Shelf, tmp_path: Path) -> Shelf:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'cuda'\n"))})
    before = kept(shelf)
    result = port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory)
    assert result.exit is Exit.REFUSED
    assert result.data["conflict"] == "1.0.0/route.patch"
    assert kept(shelf) == before
    text = (tmp_path / "w/lmcache/engine.py").read_text()
    assert "line_5 = 'cuda'" in text
    assert "line_5 = 'hpu'" in text
    return shelf


def test_a_resolved_conflict_goes_on_to_a_series(conflict: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "w/lmcache/engine.py"
    text = file.read_text()
    start, end = text.index("<<<<<<<"), text.index("\n", text.index(">>>>>>>")) + 1
    file.write_text(text[:start] + "line_5 = 'hpu or cuda'\n" + text[end:])
    subprocess.run(["git", "add", "--all"], cwd=tmp_path / "w", check=True)
    result = port.proceed(tmp_path / "w")
    assert result.exit is Exit.OK
    assert b"+line_5 = 'hpu or cuda'\n" in (conflict.directory / "1.0.1/route.patch").read_bytes()
    assert lint.lint(conflict.directory, write=False).exit is Exit.OK


def test_conflict_markers_are_never_committed(conflict: Shelf, tmp_path: Path) -> None:
    subprocess.run(["git", "add", "--all"], cwd=tmp_path / "w", check=True)
    with pytest.raises(GaudiPatchError, match="unresolved"):
        port.proceed(tmp_path / "w")


def test_an_aborted_port_leaves_the_patches_as_they_were(conflict: Shelf, tmp_path: Path) -> None:
    before = kept(conflict)
    port.abort(tmp_path / "w")
    assert kept(conflict) == before
    with pytest.raises(GaudiPatchError, match="no port is under way"):
        port.proceed(tmp_path / "w")


def test_a_release_that_has_a_series_is_not_ported_over(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError, match="already"):
        port.port("1.0.0", "1.0.0", tmp_path / "w", shelf.directory)


@pytest.mark.parametrize(
    ("edits", "counts"),
    [
        ((), {"fits": 3, "obsolete": 0, "conflict": 0}),
        ((("line_5 = 5\n", "line_5 = 'hpu'\n"),), {"fits": 2, "obsolete": 1, "conflict": 0}),
        ((("line_24 = 24\n", "line_24 = 'x'\n"),), {"fits": 2, "obsolete": 0, "conflict": 1}),
    ],
    ids=["all fit", "upstream has one", "one conflicts"],
)
def test_lint_of_an_unreleased_wheel_counts_its_hunks(
    shelf: Shelf, edits: tuple[tuple[str, str], ...], counts: dict[str, int]
) -> None:
    wheel = shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, *edits)}).rename(
        shelf.releases / "lmcache-1.0.1-cp311-cp311-any.whl"
    )
    before = kept(shelf)
    result = watch(shelf.directory, wheel)
    assert result.data["counts"] == counts
    assert result.exit is (Exit.REFUSED if edits else Exit.OK)
    assert kept(shelf) == before
