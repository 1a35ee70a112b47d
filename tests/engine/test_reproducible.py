"""Two builds with SOURCE_DATE_EPOCH give trees of equal bytes and mtimes, directories included."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gaudi_patch.engine import layout
from tests.support import scenarios, tiny
from tests.support.faults import copy_tree
from tests.support.tiny import Tiny, tree

EPOCH = 1_700_000_000
NS = EPOCH * 10**9


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    made = scenarios.few(tmp_path / "made")
    for path in [made.site, *made.site.rglob("*")]:
        os.utime(path, ns=(NS - 10**12, NS - 10**12))
    copy_tree(made.site, tmp_path / "kept")
    return made


def again(target: Tiny, tmp_path: Path) -> Tiny:
    copy_tree(tmp_path / "kept", target.site)
    return target


def test_two_builds_are_equal(build: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_66: bytes, modes and mtimes of files and directories; at another time, in another process."""
    build.apply()
    first = tree(build.site, times=True)
    again(build, tmp_path)
    later = time.time_ns() + 10**15
    monkeypatch.setattr(time, "time_ns", lambda: later)
    monkeypatch.setattr(os, "getpid", lambda: 4321)
    build.apply()
    assert tree(build.site, times=True) == first
    before = tree(tmp_path / "kept", times=True)
    changed = {name for name, node in first.items() if node != before.get(name)}
    # A file whose mode alone changes keeps its time.
    odd = {name: first[name][3] for name in changed if first[name][3] != NS}
    assert set(odd) == {"lmcache/tool.sh"}


def test_installed_at_another_time_our_files_are_equal_all_the_same(build: Tiny, tmp_path: Path) -> None:
    """case_66: pip dates its files by the installation; the files that gaudi-patch writes do not depend on it."""
    build.apply()
    first = tree(build.site, times=True)
    again(build, tmp_path)
    for path in build.site.rglob("*"):
        os.utime(path, ns=(NS + 10**12, NS + 10**12))
    copy_tree(build.site, tmp_path / "kept")
    build.apply()
    second = tree(build.site, times=True)
    state = f"{build.dist_info.name}/gaudi-patch"
    ours = {name for name in second if name.startswith((state, "lmcache/gaudi"))} | set(build.patched) - {
        "lmcache/tool.sh"
    }
    differing = {name for name in ours & set(first) if first[name] != second[name]}
    # The state keeps each pristine mtime if it is not after the epoch: those of the first build were earlier.
    assert differing == {f"{state}/state.json"}

    again(build, tmp_path)
    for path in build.site.rglob("*"):
        os.utime(path, ns=(NS + 10**13, NS + 10**13))
    build.apply()
    third = tree(build.site, times=True)
    assert {name for name in ours & set(third) if third[name] != second[name]} == set()


def test_a_rollback_of_a_build_is_reproducible_too(build: Tiny, tmp_path: Path) -> None:
    before = tree(build.site)
    build.apply()
    build.rollback()
    assert tree(build.site) == before
    files = {name: node for name, node in tree(build.site, times=True).items() if node[0] == "file"}
    kept = {name: node for name, node in tree(tmp_path / "kept", times=True).items() if node[0] == "file"}
    assert files == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1700000000", NS), ("0", 0), ("", None), ("-1", None), ("1.5", None), ("²", None), ("soon", None)],
)
def test_the_epoch_is_a_number_of_seconds_or_ignored(text: str, expected: int | None) -> None:
    assert layout.source_date_ns({"SOURCE_DATE_EPOCH": text}) == expected


def test_an_epoch_in_the_future_is_cut_to_now() -> None:
    """case_66: min(now, SOURCE_DATE_EPOCH)."""
    found = layout.source_date_ns({"SOURCE_DATE_EPOCH": "99999999999"})
    assert found is not None
    assert abs(found - time.time_ns()) < 60 * 10**9
    assert abs(layout.stamp_ns({}) - time.time_ns()) < 60 * 10**9


def test_without_an_epoch_folders_keep_their_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    target = tiny.make(tmp_path)
    begin = time.time_ns() - 10**9
    target.apply()
    assert (target.site / "lmcache/gaudi").stat().st_mtime_ns >= begin
