"""File states by hash, and the result of a series: computed in memory, and compared with the lock."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gaudi_patch.disk import FileImage, sha256
from gaudi_patch.engine import plan
from gaudi_patch.engine.plan import FileState, State, file_state, whole_state
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import LockedFile
from tests.support import tiny
from tests.support.tiny import Tiny


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "current", "state"),
    [
        ("a", "b", "a", State.PRISTINE),
        ("a", "b", "b", State.PATCHED),
        ("a", "b", "c", State.MODIFIED),
        ("a", "b", None, State.MISSING),
        (None, "b", None, State.PRISTINE),
        (None, "b", "b", State.PATCHED),
        (None, "b", "c", State.MODIFIED),
        ("a", None, "a", State.PRISTINE),
        ("a", None, None, State.PATCHED),
        ("a", None, "c", State.MODIFIED),
    ],
)
def test_a_files_state_is_its_hash_and_nothing_else(
    before: str | None, after: str | None, current: str | None, state: State
) -> None:
    """case_37 case_38"""
    found = file_state("x", LockedFile(before, after), current)
    assert found == FileState("x", before, after, current, state)


def files(*states: State) -> list[FileState]:
    return [FileState("x", "a", "b", None, state) for state in states]


def test_the_whole_is_on_one_side_or_says_why_not() -> None:
    """case_30: whatever the order and the number of files."""
    expected = {
        (State.PRISTINE,): State.PRISTINE,
        (State.PATCHED,): State.PATCHED,
        (State.PRISTINE, State.PATCHED): State.PARTIAL,
        (State.PRISTINE, State.MISSING): State.MISSING,
        (State.PATCHED, State.MISSING): State.MISSING,
        (State.PRISTINE, State.PATCHED, State.MISSING): State.MISSING,
        (State.MODIFIED,): State.MODIFIED,
        (State.MISSING,): State.MISSING,
        (State.MODIFIED, State.MISSING): State.MODIFIED,
        (State.MODIFIED, State.PATCHED, State.PRISTINE): State.MODIFIED,
    }
    for states, whole in expected.items():
        for order in itertools.permutations(states):
            assert whole_state(files(*order, order[0])) is whole


def test_a_file_of_one_hash_says_nothing_about_the_side() -> None:
    """case_40: a change of mode alone."""
    same = FileState("tool", "a", "a", "a", State.PATCHED)
    assert whole_state([same, *files(State.PRISTINE)]) is State.PRISTINE
    assert whole_state([same, *files(State.PATCHED)]) is State.PATCHED
    assert whole_state([same]) is State.PATCHED


def build(target: Tiny, change: dict[str, FileImage | None]) -> plan.Plan:
    (series,) = target.manifest.series
    locked = target.manifest.locked_files(series)
    images: dict[str, FileImage | None] = {
        path: FileImage(tiny.PRISTINE[path]) if path in tiny.PRISTINE else None for path in locked
    }
    return plan.build(target.manifest, series, images | change, locked=locked, owner=(1, 2))


def test_a_plan_has_each_file_with_both_images(target: Tiny) -> None:
    built = build(target, {})
    assert {one.path: one.after and one.after.data for one in built.files} == dict(tiny.PATCHED)
    created = {one.path: one.after for one in built.files if one.before is None}
    assert created["lmcache/gaudi/kernels.py"] == FileImage(b"BLOCK = 128\n", 0o644, None, (1, 2))
    assert built.offsets == {}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lmcache/gaudi/kernels.py": FileImage(b"there\n")}, "exists"),
        ({"lmcache/engine.py": None}, "missing"),
        ({"lmcache/engine.py": FileImage(b"other\n")}, "does-not-apply"),
        ({"lmcache/v1/old.py": FileImage(b"other\n")}, "does-not-apply"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_patch_or_the_file(
    change: dict[str, FileImage | None], code: str, target: Tiny
) -> None:
    """case_37 case_38"""
    with pytest.raises(GaudiPatchError) as caught:
        build(target, change)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, code)
    if code == "does-not-apply":
        assert caught.value.file == str(target.manifest.directory / "tiny.patch")
        text = Path(caught.value.file).read_bytes().split(b"\n")
        assert text[caught.value.line - 1].startswith(b"@@")
        assert caught.value.details


def test_hunks_that_moved_give_the_same_bytes_or_the_lock_refuses_them(target: Tiny) -> None:
    """case_33: a lock fixes the result; a hunk applied elsewhere gives other bytes."""
    moved = {"lmcache/engine.py": FileImage(b"# first\n" + tiny.PRISTINE["lmcache/engine.py"])}
    with pytest.raises(GaudiPatchError) as caught:
        build(target, moved)
    assert caught.value.exit in (Exit.REFUSED, Exit.USAGE)


def test_modes_are_those_of_the_patch_only_where_it_changes_them(target: Tiny) -> None:
    """case_9 case_40"""
    odd = {"lmcache/engine.py": FileImage(tiny.PRISTINE["lmcache/engine.py"], 0o640, 5, (7, 8))}
    images = {one.path: one.after for one in build(target, odd).files}
    engine, tool = images["lmcache/engine.py"], images["lmcache/tool.sh"]
    assert engine is not None
    assert (engine.mode, engine.owner, engine.mtime_ns) == (0o640, (7, 8), None)
    assert tool is not None
    assert tool.mode == 0o755


def test_a_series_is_applied_backwards_only_to_the_pristine_bytes(target: Tiny) -> None:
    """case_30: compared with the lock; any other result is refused."""
    (series,) = target.manifest.series
    locked = target.manifest.locked_files(series)
    patched: dict[str, FileImage | None] = {
        path: FileImage(data, 0o755 if path in tiny.EXECUTABLE else 0o640) if data is not None else None
        for path, data in tiny.PATCHED.items()
    }
    back = plan.reverse(target.manifest, series, patched, locked)
    assert {one.path: one.before and one.before.data for one in back.files} == {
        path: tiny.PRISTINE.get(path) for path in tiny.PATCHED
    }
    modes = {one.path: one.before.mode for one in back.files if one.before}
    assert (modes["lmcache/engine.py"], modes["lmcache/tool.sh"]) == (0o640, 0o644)

    with pytest.raises(GaudiPatchError) as caught:
        plan.reverse(target.manifest, series, patched | {"lmcache/engine.py": FileImage(b"other\n")}, locked)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "does-not-apply")

    other = {**locked, "lmcache/engine.py": LockedFile(sha256(b"another"), locked["lmcache/engine.py"].after)}
    with pytest.raises(GaudiPatchError) as caught:
        plan.reverse(target.manifest, series, patched, other)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "not-reversible")


def test_a_lock_with_a_file_that_no_patch_touches_is_refused(target: Tiny) -> None:
    (series,) = target.manifest.series
    locked = {**target.manifest.locked_files(series), "lmcache/more.py": LockedFile(None, "x")}
    with pytest.raises(GaudiPatchError) as caught:
        plan.build(
            target.manifest, series,
            {path: FileImage(tiny.PRISTINE[path]) if path in tiny.PRISTINE else None for path in tiny.PATCHED},
            locked=locked,
        )  # fmt: skip
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "lock-mismatch")


def test_targets_lie_in_the_package(target: Tiny) -> None:
    """case_20"""
    assert plan.target(target.site, "lmcache", "lmcache/x/y.py") == target.site / "lmcache/x/y.py"
    with pytest.raises(GaudiPatchError, match="not below lmcache/"):
        plan.target(target.site, "lmcache", "lmcacheother/x.py")
    (target.site / "lmcache/out").symlink_to(target.site / "lmcacheother")
    with pytest.raises(GaudiPatchError) as caught:
        plan.target(target.site, "lmcache", "lmcache/out/x.py")
    assert caught.value.code == "outside-package"


def test_only_modules_can_be_shadowed_by_compiled_ones(target: Tiny) -> None:
    """case_57"""
    (target.site / "lmcache/tool.so").touch()
    (target.site / "lmcache/engineer.so").touch()
    plan.refuse_compiled(target.site, ["lmcache/tool.sh", "lmcache/engine.py", "lmcache/none/x.py"])
    (target.site / "lmcache/engine.pyd").touch()
    with pytest.raises(GaudiPatchError, match=r"engine\.pyd"):
        plan.refuse_compiled(target.site, ["lmcache/engine.py"])
