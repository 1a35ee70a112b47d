"""`dev lint`: what it refuses, what makes the lock stale, and what a renewal reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.authoring import lint, wheels
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import load
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed, diff_of


def test_lint_fails_on_a_patch_that_the_lock_does_not_know(shelf: Shelf) -> None:
    file = shelf.directory / "route/1.0.0.patch"
    file.write_bytes(file.read_bytes().replace(b"'hpu'", b"'HPU'"))
    assert lint.lint(shelf.directory, write=False).exit is Exit.USAGE


def test_lint_refuses_a_diff_that_no_series_uses(shelf: Shelf) -> None:
    (shelf.directory / "left").mkdir()
    (shelf.directory / "left/1.0.0.patch").write_bytes((shelf.directory / "route/1.0.0.patch").read_bytes())
    with pytest.raises(GaudiPatchError, match=r"no series uses left/1\.0\.0\.patch"):
        lint.lint(shelf.directory, write=True)


def test_lint_refuses_a_release_with_two_series(shelf: Shelf) -> None:
    file = shelf.directory / "manifest.toml"
    text = file.read_text()
    entry = text[text.index("[[series]]") : text.index("[patch.")]
    file.write_text(text.replace(entry, entry + entry.replace("[[series]]", '[[series]]\nid = "again"')))
    with pytest.raises(GaudiPatchError, match="claimed by two series"):
        lint.lint(shelf.directory, write=True)


def test_lint_counts_the_lines_that_a_series_changes_in_the_release(shelf: Shelf) -> None:
    # One line replaced and one removed; the module that the series adds does not count.
    assert lint.lint(shelf.directory, write=False).routing_lines == {"1.0.0": 3}


def test_lint_refuses_a_series_that_does_not_apply_to_its_wheel(shelf: Shelf) -> None:
    file = shelf.directory / "route/1.0.0.patch"
    file.write_bytes(file.read_bytes().replace(b" line_4 = 4\n", b" line_4 = 44\n"))
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.code == "does-not-apply"


def test_lint_refuses_a_series_whose_result_does_not_compile(shelf: Shelf) -> None:
    file = shelf.directory / "route/1.0.0.patch"
    file.write_bytes(file.read_bytes().replace(b"+line_5 = 'hpu'\n", b"+line_5 = 'hpu\n"))
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.code == "not-python"


def counted(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> list[str]:
    """Return the releases whose wheels are read from now on."""
    asked: list[str] = []

    def fetch(package: str, version: str, python: str = "3.11") -> Path:
        asked.append(version)
        return shelf.wheel(version)

    monkeypatch.setattr(wheels, "fetch", fetch)
    return asked


def edit_manifest(shelf: Shelf, old: str, new: str) -> None:
    file = shelf.directory / "manifest.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("# kept", '# another comment, with "quotes"'), ("# kept\n", "\n\n"), ("[[series]]", "[[series]]  # newest")],
)
def test_a_changed_comment_makes_nothing_stale(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    before = (shelf.directory / "manifest.lock").read_bytes()
    edit_manifest(shelf, old, new)
    load(shelf.directory)
    asked = counted(monkeypatch, shelf)
    assert lint.lint(shelf.directory, write=True).written is False
    assert asked == []
    assert (shelf.directory / "manifest.lock").read_bytes() == before


def test_a_changed_reason_makes_the_lock_stale_until_it_is_renewed_without_a_wheel(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_manifest(shelf, 'why = "because"', 'why = "another # reason"')
    with pytest.raises(GaudiPatchError, match=r"manifest\.lock: is stale") as caught:
        load(shelf.directory)
    assert caught.value.hint.endswith(f"gaudi-patch dev lint --write --manifest {shelf.directory}")
    asked = counted(monkeypatch, shelf)
    assert lint.lint(shelf.directory, write=True).written is True
    assert asked == []
    assert {patch.why for patch in load(shelf.directory).patches.values()} == {"another # reason"}


def test_renewing_reads_the_wheels_of_changed_series_alone(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.release("1.0.1", BASE)
    edit_manifest(shelf, "# kept\n", '[[series]]\nversions = "==1.0.1"\npatches = ["runtime/1.0.0.patch"]\n\n')
    asked = counted(monkeypatch, shelf)
    assert lint.lint(shelf.directory, write=True).written is True
    assert asked == ["1.0.1"]
    file = shelf.directory / "route/1.0.0.patch"
    file.write_bytes(file.read_bytes().replace(b"'hpu'", b"'HPU'"))
    asked.clear()
    lint.lint(shelf.directory, write=True)
    assert asked == ["1.0.0"]
    asked.clear()
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK
    assert asked == ["1.0.1", "1.0.0"]  # a check relies on nothing that was written earlier


def without_second_hunk(shelf: Shelf, folder: Path) -> None:
    runtime = {**BASE, "lmcache/gaudi.py": "DEVICE = 'hpu'\n"}
    routed = {**runtime, "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'hpu'\n"))}
    (shelf.directory / "route/1.0.0.patch").write_bytes(diff_of(folder / "d3", runtime, routed))


@pytest.mark.parametrize("write", [False, True])
def test_a_hunk_that_vanished_is_refused_until_it_is_said_to_be_meant(
    shelf: Shelf, tmp_path: Path, write: bool
) -> None:
    before = (shelf.directory / "manifest.lock").read_bytes()
    without_second_hunk(shelf, tmp_path)
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=write)
    assert caught.value.code == "hunk-vanished"
    assert caught.value.details == ["route/1.0.0.patch: lmcache/engine.py: 1 of 2 hunks remain"]
    assert (shelf.directory / "manifest.lock").read_bytes() == before
    assert lint.lint(shelf.directory, write=True, fewer_hunks=True).written is True
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK


def test_a_file_that_vanished_from_a_patch_is_refused(shelf: Shelf) -> None:
    (shelf.directory / "runtime/1.0.0.patch").write_bytes((shelf.directory / "route/1.0.0.patch").read_bytes())
    edit_manifest(shelf, '"runtime/1.0.0.patch", "route/1.0.0.patch"]', '"runtime/1.0.0.patch"]')
    edit_manifest(shelf, '[patch."route/1.0.0.patch"]', '[patch."route/1.0.0.patch"] # unused')
    text = (shelf.directory / "manifest.toml").read_text()
    (shelf.directory / "manifest.toml").write_text(text[: text.index('[patch."route')])
    (shelf.directory / "route/1.0.0.patch").unlink()
    with pytest.raises(GaudiPatchError) as caught:
        lint.lint(shelf.directory, write=True)
    assert caught.value.details == ["runtime/1.0.0.patch: lmcache/gaudi.py: 0 of 1 hunks remain"]


def test_a_lock_that_is_missing_or_damaged_is_generated_anew(shelf: Shelf) -> None:
    file = shelf.directory / "manifest.lock"
    before = file.read_bytes()
    for damaged in (None, b"", b'{"schema": 1}', before[:100]):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        assert lint.lint(shelf.directory, write=True).written is True
        assert file.read_bytes() == before


def test_files_that_no_patch_is_are_refused_and_those_of_tools_are_not(shelf: Shelf) -> None:
    (shelf.directory / "route/__pycache__").mkdir()
    (shelf.directory / "route/__pycache__/x.pyc").write_bytes(b"")
    (shelf.directory / ".swp").write_bytes(b"")
    (shelf.directory / "route/.mypy_cache").mkdir()
    (shelf.directory / "route/.mypy_cache/x.json").write_bytes(b"")
    assert lint.lint(shelf.directory, write=False).exit is Exit.OK
    (shelf.directory / "route/notes.txt").write_text("mine")
    with pytest.raises(GaudiPatchError, match=r"no series uses route/notes\.txt"):
        lint.lint(shelf.directory, write=False)
