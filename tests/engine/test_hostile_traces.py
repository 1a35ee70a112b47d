"""Traced from outside: what a hostile target leads to is neither written nor read.

By the preloaded library of tests/rig, which sees every call of the real command. A full run traces all cases.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rig import trace
from tests.support import tiny
from tests.support.cli import command, environment
from tests.support.faults import FULL, copy_tree
from tests.support.hostile import CASES, Case, make_victim
from tests.support.tiny import Tiny

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler to build the preloaded library"
)

#: A source may be a link, as may METADATA: what it leads to is read, and never written. See docs/trust.md.
LOOKED_AT = {
    "target_is_a_link_to_another_file",
    "target_is_a_link_to_its_own_bytes",
    "metadata_is_a_link_to_a_secret",
    "journal_plants_a_link",
    "state_plants_a_link_to_a_secret",
}
#: These take time to lay out, and lead nowhere.
LARGE = {case.name for case in CASES if "very_many" in case.name or "huge" in case.name or "endless" in case.name}
TRACED = [case for case in CASES if case.name not in LARGE]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces").resolve()
    made = tiny.make(folder)
    copy_tree(made.site, folder / "pristine")
    made.apply()
    copy_tree(made.site, folder / "applied")
    return folder


@pytest.mark.parametrize("case", TRACED if FULL else TRACED[::4], ids=lambda case: case.name)
def test_nothing_outside_is_opened(case: Case, templates: Path, tmp_path: Path) -> None:
    """case_20"""
    work = tmp_path.resolve()
    site = copy_tree(templates / ("applied" if case.applied else "pristine"), work / "site")
    victim = make_victim(work)
    case.spoil(Tiny(site, None), victim)  # type: ignore[arg-type]  # the commands read the manifest themselves
    for words in (["check"], ["apply", "--no-smoke"], ["rollback"]):
        options = ["--path", site, "--manifest", templates / "patches"]
        done = trace.run(command(*words, *options), env=environment())
        touched = done.touched(victim)
        if case.name in LOOKED_AT:
            touched = [call for call in touched if call.changes]
        assert touched == [], done
        assert [path for path in done.written if not path.is_relative_to(site)] == []


def test_the_trace_sees_what_would_be_wrong(templates: Path, tmp_path: Path) -> None:
    """The instrument has to see a write through a link, or it proves nothing."""
    work = tmp_path.resolve()
    victim = make_victim(work)
    (work / "link").symlink_to(victim)
    done = trace.run(["sh", "-c", f"echo x > {work}/link/deleteme"], env=environment())
    assert done.touched(victim)
    assert victim / "deleteme" in done.written
