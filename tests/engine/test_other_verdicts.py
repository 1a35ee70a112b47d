"""Verdicts without a series, and the plan as a diff."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.situations import refusal
from tests.support import tiny
from tests.support.tiny import Tiny, tree


def with_rules(few: Tiny, text: str) -> Tiny:
    """Return the manifest with version rules added."""
    from gaudi_patch.series.manifest import load

    tiny.add_rules(few.manifest.directory, text)
    return replace(few, manifest=load(few.manifest.directory))


def test_a_version_that_needs_nothing_exits_0_and_is_left_alone(few: Tiny) -> None:
    """case_51: upstream already has the change."""
    newer = replace(with_rules(few, '[[upstream]]\nversions = ">=0.6"\nreason = "upstream has it"\n'), version="0.6.0")
    (few.site / "lmcache/engine.py").write_bytes(b"# of 0.6.0\n")
    few.dist_info.rename(newer.dist_info)
    before = tree(few.site, times=True)
    assert newer.check().exit is Exit.OK
    assert newer.apply().data["changed"] is False
    assert newer.rollback().data["changed"] is False
    assert tree(few.site, times=True) == before


def test_a_refused_version_exits_3_with_the_advice(few: Tiny) -> None:
    """case_51"""
    text = '[[refused]]\nversions = "<0.4"\nreason = "too old"\nadvice = "move to 0.5.6"\n'
    older = replace(with_rules(few, text), version="0.3.0")
    (few.site / "lmcache/engine.py").write_bytes(b"# of 0.3.0\n")
    few.dist_info.rename(older.dist_info)
    assert refusal(older.check()) == (Exit.NOT_FOUND, "refused-version")
    with pytest.raises(GaudiPatchError, match="too old") as caught:
        older.apply()
    assert (caught.value.exit, caught.value.hint) == (Exit.NOT_FOUND, "move to 0.5.6")


def test_the_plan_can_be_read_as_one_diff(few: Tiny) -> None:
    """The printed diff turns the old files into the new ones."""
    from gaudi_patch.output.report import Diff

    planned = few.apply(dry_run=True, diff=True)
    (shown,) = [block for block in planned.blocks if isinstance(block, Diff)]
    assert "--- a/lmcache/engine.py\n+++ b/lmcache/engine.py\n" in shown.text
    assert "-    return 'cuda'\n+    return 'hpu'\n" in shown.text
    assert "--- a/lmcache/old.py\n+++ /dev/null\n" in shown.text
    assert "--- /dev/null\n+++ b/lmcache/gaudi/__init__.py\n" in shown.text
    applied = few.apply(diff=True)
    assert [block for block in applied.blocks if isinstance(block, Diff)] == [shown]
    assert not [block for block in few.apply(diff=True).blocks if isinstance(block, Diff)]


def test_a_diff_says_where_a_newline_is_missing(tmp_path: Path) -> None:
    """case_27"""
    from gaudi_patch.output.report import Diff

    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"A = 1"}, {"lmcache/__init__.py": b"A = 2\n"})
    (shown,) = [block for block in target.apply(dry_run=True, diff=True).blocks if isinstance(block, Diff)]
    assert "-A = 1\n\\ No newline at end of file\n+A = 2\n" in shown.text
