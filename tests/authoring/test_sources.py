"""A patch kept as sources: edited in a worktree, written back, and validated as a whole before any file is replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, lint, port
from gaudi_patch.authoring import prove as proving
from gaudi_patch.commands.dev.port import report
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Table
from gaudi_patch.series.manifest import load
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def kept(shelf: Shelf) -> dict[str, bytes]:
    files = [path for path in shelf.directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(shelf.directory)): path.read_bytes() for path in files}


@pytest.fixture
def sources(shelf: Shelf) -> Shelf:
    """Keep the new module as source, in two series; return the shelf."""
    (shelf.directory / "runtime/1.0.0.patch").unlink()
    (shelf.directory / "runtime/lmcache").mkdir()
    (shelf.directory / "runtime/lmcache/gaudi.py").write_text("DEVICE = 'hpu'\n")
    file = shelf.directory / "manifest.toml"
    text = file.read_text().replace("runtime/1.0.0.patch", "runtime")
    series = '[[series]]\nversions = "==1.0.1"\npatches = ["runtime", "route/1.0.0.patch"]\n\n'
    file.write_text(text.replace("# kept\n", f"# kept\n{series}"))
    shelf.release("1.0.1", BASE)
    lint.lint(shelf.directory, write=True)
    return shelf


def amend_runtime(folder: Path, text: str) -> None:
    """Change the module in the first commit, that of the runtime."""
    git(folder, "tag", "route", "HEAD")
    git(folder, "reset", "--quiet", "--hard", "HEAD~1")
    (folder / "lmcache/gaudi.py").write_text(text)
    git(folder, "add", "lmcache/gaudi.py")
    git(folder, "commit", "--quiet", "--amend", "--no-edit")
    git(folder, "cherry-pick", "route")


def test_refresh_writes_a_changed_module_back_to_its_source_for_every_series(sources: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", sources.directory)
    assert edit.refresh(tmp_path / "w", sources.directory).written == ()
    before = load(sources.directory)
    amend_runtime(tmp_path / "w", "DEVICE = 'hpu'\nBLOCK = 128\n")
    result = edit.refresh(tmp_path / "w", sources.directory)
    assert result.written == ("runtime",)
    assert (sources.directory / "runtime/lmcache/gaudi.py").read_text() == "DEVICE = 'hpu'\nBLOCK = 128\n"
    after = load(sources.directory)
    for old, new in zip(before.series, after.series, strict=True):
        assert old.files["lmcache/gaudi.py"] != new.files["lmcache/gaudi.py"]
        assert old.files["lmcache/engine.py"] == new.files["lmcache/engine.py"]
    assert lint.lint(sources.directory, write=False).exit is Exit.OK


def test_a_module_that_is_added_or_removed_follows(sources: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", sources.directory)
    git(tmp_path / "w", "tag", "route", "HEAD")
    git(tmp_path / "w", "reset", "--quiet", "--hard", "HEAD~1")
    git(tmp_path / "w", "mv", "lmcache/gaudi.py", "lmcache/gaudi_device.py")
    git(tmp_path / "w", "commit", "--quiet", "--amend", "--no-edit")
    git(tmp_path / "w", "cherry-pick", "route")
    before = kept(sources)
    with pytest.raises(GaudiPatchError) as caught:  # for lint, a missing module is a hunk that vanished
        edit.refresh(tmp_path / "w", sources.directory)
    assert caught.value.code == "hunk-vanished"
    assert caught.value.file == str(sources.directory / "manifest.lock")
    assert kept(sources) == before
    edit.refresh(tmp_path / "w", sources.directory, fewer_hunks=True)
    assert [path.name for path in (sources.directory / "runtime/lmcache").iterdir()] == ["gaudi_device.py"]


def test_an_edited_source_is_stale_until_the_lock_is_renewed(sources: Shelf) -> None:
    (sources.directory / "runtime/lmcache/gaudi.py").write_text("DEVICE = 'HPU'\n")
    with pytest.raises(GaudiPatchError, match=r"runtime: differs from the sha256"):
        load(sources.directory).patch_bytes("runtime")
    assert lint.lint(sources.directory, write=False).exit is Exit.USAGE
    lint.lint(sources.directory, write=True)
    assert b"+DEVICE = 'HPU'\n" in load(sources.directory).patch_bytes("runtime")


def test_a_change_of_the_release_does_not_get_into_the_sources(sources: Shelf, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", sources.directory)
    git(tmp_path / "w", "tag", "route", "HEAD")
    git(tmp_path / "w", "reset", "--quiet", "--hard", "HEAD~1")
    (tmp_path / "w/lmcache/__init__.py").write_text("VERSION = 2\n")
    git(tmp_path / "w", "commit", "--quiet", "--all", "--amend", "--no-edit")
    git(tmp_path / "w", "cherry-pick", "route")
    before = kept(sources)
    with pytest.raises(GaudiPatchError, match=r"may only create \.py files, not lmcache/__init__\.py"):
        edit.refresh(tmp_path / "w", sources.directory)
    assert kept(sources) == before


@pytest.mark.parametrize(
    ("text", "code"), [("line_10 = 'ten\n", "not-python"), ("line_10 = 10 # changed\n", "does-not-apply")]
)
def test_nothing_is_replaced_before_all_series_have_been_validated(
    sources: Shelf, tmp_path: Path, text: str, code: str
) -> None:
    """The change fits the edited release only, or does not compile; other releases count as much."""
    edit.edit("1.0.0", tmp_path / "w", sources.directory)
    if code == "does-not-apply":  # to the other release that shares the patch
        other = {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_10 = 10\n", "line_10 = 'other'\n"))}
        sources.release("1.0.1", other)
    file = tmp_path / "w/lmcache/engine.py"
    file.write_text(file.read_text().replace("line_10 = 10\n", text))
    git(tmp_path / "w", "commit", "--quiet", "--all", "--amend", "--no-edit")
    before = kept(sources)
    with pytest.raises(GaudiPatchError) as caught:
        edit.refresh(tmp_path / "w", sources.directory)
    assert caught.value.code == code
    assert "gaudi-patch-draft" not in f"{caught.value.file} {caught.value.message} {caught.value.hint}"
    assert kept(sources) == before


def test_a_port_that_changes_the_sources_changes_them_for_all_series(
    sources: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = GaudiPatchError(Exit.SMOKE, "smoke-failed", "1 of 6 smoke checks failed")
    answers = [proving.PortProof(fault=fault), proving.PortProof()]
    monkeypatch.setattr(proving, "prove", lambda *_: answers.pop(0))
    sources.release("1.0.2", BASE)
    before = kept(sources)
    assert port.port("1.0.1", "1.0.2", tmp_path / "w", sources.directory).exit is Exit.SMOKE
    assert kept(sources) == before
    amend_runtime(tmp_path / "w", "DEVICE = 'hpu'\nCOMPAT = 2\n")
    result = report(port.proceed(tmp_path / "w"))
    assert result.exit is Exit.OK
    assert result.data["new"] == ["runtime"]
    (table,) = [one for one in result.blocks if isinstance(one, Table)]
    assert ("runtime", "changed", "used by every series: all of them must be proved again") in table.rows
    assert {one.patches for one in load(sources.directory).series} == {("runtime", "route/1.0.0.patch")}
    assert (sources.directory / "runtime/lmcache/gaudi.py").read_text() == "DEVICE = 'hpu'\nCOMPAT = 2\n"
    assert lint.lint(sources.directory, write=False).exit is Exit.OK
