"""`dev port` and `dev lint --wheel`: a series on the next release."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, lint, port, wheels
from gaudi_patch.authoring import prove as proving
from gaudi_patch.authoring.fit import watch
from gaudi_patch.commands.dev.lint import compared
from gaudi_patch.commands.dev.port import report
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Text
from gaudi_patch.series.manifest import load
from gaudi_patch.smoke.outcome import LevelResult
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed
from tests.support.cli import gaudi_patch

UNPROVED = port.PortOptions(smoke=False)
FAULT = GaudiPatchError(Exit.SMOKE, "smoke-failed", "1 of 6 smoke checks failed")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


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
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED))
    assert result.exit is Exit.OK
    assert series(shelf, "1.0.1") == ("runtime/1.0.0.patch", "route/1.0.0.patch")
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK


def test_changed_context_gives_the_release_a_patch_of_its_own(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_3 = 3\n", "line_3 = 'three'\n"))})
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED))
    assert result.data["new"] == ["route/1.0.1.patch"]
    assert series(shelf, "1.0.1") == ("runtime/1.0.0.patch", "route/1.0.1.patch")
    manifest = load(shelf.directory)
    assert manifest.patches["route/1.0.1.patch"].why == "because"


def test_the_manifest_keeps_its_comments_and_its_order(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_3 = 3\n", "line_3 = 'three'\n"))})
    before = (shelf.directory / "manifest.toml").read_text()
    port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED)
    after = (shelf.directory / "manifest.toml").read_text()
    assert [one.id for one in load(shelf.directory).series] == ["1.0.1", "1.0.0"]  # newest first
    assert after.index('[patch."route/1.0.1.patch"]') < after.index('[patch."route/1.0.0.patch"]')
    old, new = before.splitlines(), after.splitlines()
    assert [line for line in difflib.ndiff(old, new) if line.startswith("- ")] == []


def test_what_upstream_has_is_dropped_and_said(shelf: Shelf, tmp_path: Path) -> None:
    there = changed(ENGINE, ("line_5 = 5\n", "line_5 = 'hpu'\n"), ("line_25 = 25\n", ""))
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": there})
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED))
    assert result.data["dropped"] == ["route/1.0.0.patch"]
    assert series(shelf, "1.0.1") == ("runtime/1.0.0.patch",)


def test_a_wheel_that_is_not_released_is_never_asked_for(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = shelf.release("1.0.1", BASE)

    def fetch(package: str, version: str, python: str = "3.11") -> Path:
        assert version == "1.0.0"
        return shelf.wheel(version)

    monkeypatch.setattr(wheels, "fetch", fetch)
    options = port.PortOptions(wheel=wheel, smoke=False)
    assert port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, options).exit is Exit.OK


def test_after_a_port_the_worktree_refreshes_to_what_was_written(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_3 = 3\n", "line_3 = 'three'\n"))})
    port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED)
    before = kept(shelf)
    assert edit.refresh(tmp_path / "w", shelf.directory).written == ()
    assert kept(shelf) == before


def test_a_series_that_fails_its_smoke_checks_is_not_written_until_it_passes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": "moved = True\n" + ENGINE})
    answers = [
        proving.PortProof(fault=FAULT),
        proving.PortProof((LevelResult("imports", "passed", "why", 1.0, "emulated", "lazy"),)),
    ]
    proved: list[str] = []

    def prove(directory: Path, wheel: Path, python: Path | None) -> proving.PortProof:
        found = load(directory).by_id("1.0.1")
        assert found is not None
        proved.extend(found.patches)
        return answers.pop(0)

    monkeypatch.setattr(proving, "prove", prove)
    before = kept(shelf)
    failed = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory))
    assert failed.exit is Exit.SMOKE
    assert "nothing was written" in failed.errors[0].message
    assert "--continue" in failed.errors[0].hint
    assert kept(shelf) == before
    file = tmp_path / "w/lmcache/engine.py"
    file.write_text(file.read_text().replace("line_10 = 10", "line_10 = 'ten'"))
    git(tmp_path / "w", "commit", "--quiet", "--all", "--amend", "--no-edit")
    assert port.proceed(tmp_path / "w").exit is Exit.OK
    # The amended commit differs from the patch of 1.0.0.
    assert proved[2:] == ["runtime/1.0.0.patch", "route/1.0.1.patch"]
    assert series(shelf, "1.0.1") == ("runtime/1.0.0.patch", "route/1.0.1.patch")
    assert b"+line_10 = 'ten'\n" in (shelf.directory / "route/1.0.1.patch").read_bytes()


def test_smoke_checks_that_cannot_run_are_told_and_not_taken_for_passed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", BASE)
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory))  # with an interpreter without PyTorch
    assert {one["status"] for one in result.data["smoke"]} == {"skipped"}
    assert any("PyTorch is not installed" in warning for warning in result.warnings)
    assert "0 of 10 smoke checks passed, 10 could not be run" in "".join(
        one.text for one in result.blocks if isinstance(one, Text)
    )


def test_a_commit_that_does_not_say_what_it_is_stops_the_port(conflict: Shelf, tmp_path: Path) -> None:
    before = kept(conflict)
    resolve(tmp_path / "w/lmcache/engine.py")
    git(tmp_path / "w", "commit", "--quiet", "-m", "The route")
    git(tmp_path / "w", "commit", "--quiet", "--allow-empty", "-m", "Nothing")
    with pytest.raises(GaudiPatchError, match="does not name its patch"):
        port.proceed(tmp_path / "w")
    assert kept(conflict) == before


def resolve(file: Path) -> None:
    text = file.read_text()
    start, end = text.index("<<<<<<<"), text.index("\n", text.index(">>>>>>>")) + 1
    file.write_text(text[:start] + "line_5 = 'hpu or cuda'\n" + text[end:])
    git(file.parent, "add", "--all")


@pytest.fixture
def conflict(shelf: Shelf, tmp_path: Path) -> Shelf:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'cuda'\n"))})
    before = kept(shelf)
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED))
    assert result.exit is Exit.REFUSED
    assert result.data["conflict"] == "route/1.0.0.patch"
    said = "".join(one.text for one in result.blocks if isinstance(one, Text))
    assert "HEAD is 1.0.1 with the patches so far, the parent is 1.0.0 before the patch" in said
    assert "Merged: 1; still to come: 0." in said
    assert kept(shelf) == before
    text = (tmp_path / "w/lmcache/engine.py").read_text()
    assert "line_5 = 'cuda'" in text
    assert "line_5 = 'hpu'" in text
    return shelf


def test_a_resolved_conflict_goes_on_to_a_series(conflict: Shelf, tmp_path: Path) -> None:
    resolve(tmp_path / "w/lmcache/engine.py")
    result = report(port.proceed(tmp_path / "w"))
    assert result.exit is Exit.OK
    assert b"+line_5 = 'hpu or cuda'\n" in (conflict.directory / "route/1.0.1.patch").read_bytes()
    assert lint.lint(conflict.directory, write=False).exit is Exit.OK


def test_a_file_that_the_release_no_longer_has_is_said_and_shown(shelf: Shelf, tmp_path: Path) -> None:
    """Git alone says "Unmerged path", and shows nothing."""
    shelf.release("1.0.1", {"lmcache/__init__.py": "VERSION = 1\n", "lmcache/core.py": "x = 1\n"})
    outcome = port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED)
    assert isinstance(outcome, port.Conflict)
    assert outcome.gone == outcome.files == ("lmcache/engine.py",)
    assert "+line_5 = 'hpu'" in outcome.diff
    said = "".join(one.text for one in report(outcome).blocks if isinstance(one, Text))
    assert "1.0.1 no longer has lmcache/engine.py: `git rm` it" in said
    assert "(or `git rm`) the files there" in outcome.fault.hint
    git(tmp_path / "w", "rm", "--quiet", "lmcache/engine.py")
    assert report(port.proceed(tmp_path / "w")).exit is Exit.OK


def test_conflict_markers_are_never_committed(conflict: Shelf, tmp_path: Path) -> None:
    git(tmp_path / "w", "add", "--all")
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
        port.port("1.0.0", "1.0.0", tmp_path / "w", shelf.directory, UNPROVED)


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
    assert result.counts == counts
    assert result.exit is (Exit.REFUSED if edits else Exit.OK)
    assert kept(shelf) == before


def test_what_lint_of_a_wheel_prints_can_be_typed_as_it_is(shelf: Shelf) -> None:
    def linted(version: str) -> Result:
        named = f"lmcache-{version}-cp311-cp311-any.whl"
        return compared(watch(shelf.directory, shelf.release(version, BASE).rename(shelf.releases / named)))

    newer = linted("1.0.1")
    command = newer.blocks[-1]
    assert isinstance(command, Text)
    assert command.verbatim
    wheel = shelf.releases / "lmcache-1.0.1-cp311-cp311-any.whl"
    assert command.text == f"gaudi-patch dev port 1.0.0 1.0.1 --wheel {wheel} --manifest {shelf.directory}"
    same = linted("1.0.0")  # the release has a series: there is nothing to port
    assert "dev port" not in "".join(block.text for block in same.blocks if isinstance(block, Text))


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (("--no-smoke",), "--no-smoke"),
        (("--python", "python"), "--python"),
        (("1.0.0", "1.0.1"), "OLD NEW"),
        (("--abort", "w"), "--abort"),
    ],
)
def test_a_port_that_goes_on_refuses_options_that_it_would_ignore(others: tuple[str, ...], named: str) -> None:
    done = gaudi_patch("dev", "port", "--continue", "my port", *others)
    assert done.code == 2
    assert f"takes no {named}" in done.err
    assert "gaudi-patch dev port --continue 'my port'" in done.err
