"""A run that is killed or fails at any step leaves a state that the next run repairs.

The promise under test: after any run, all targets are byte-equal to pristine, or all to patched, or a journal
exists. One plain `check` reports which, and changes nothing; one `apply` or `rollback` reaches a whole state. By
default a sample of the combinations is tried; GAUDI_PATCH_TEST_FULL=1 tries all.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from gaudi_patch.disk import Disk
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result
from tests.support import scenarios
from tests.support.faults import FULL, KILLED, FailAt, KillAt, Recorder, copy_tree, in_child, memory_folder
from tests.support.scenarios import Scenario
from tests.support.tiny import Node, Tiny, tree

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EINTR, errno.EDQUOT, errno.ESTALE]

VERBS = ("apply", "rollback")

Count = Callable[[str, int], None]
Case = TypeVar("Case")


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Add to the counts printed at the end of the run."""
    return record_property


@pytest.fixture(autouse=True)
def _one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the time, so that whole trees of two runs can be compared."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@dataclass(frozen=True)
class Bench:
    """A scenario laid out once; ``pristine`` and ``patched`` are its two whole states.

    All cases run at the same path, since bytecode contains the path of its source.
    """

    scenario: Scenario
    tiny: Tiny
    folder: Path
    start: dict[str, Node]
    pristine: dict[str, Node]
    patched: dict[str, Node]

    def fresh(self) -> Tiny:
        """Return the scenario's initial state."""
        return self.back_to("start")

    def keep(self, name: str) -> None:
        """Save the current state under ``name``."""
        copy_tree(self.tiny.site, self.folder / "kept" / name)

    def back_to(self, name: str) -> Tiny:
        """Restore the state saved under ``name``."""
        copy_tree(self.folder / "kept" / name, self.tiny.site)
        return self.tiny

    def steps(self) -> int:
        recorder = Recorder()
        self.scenario.verb(self.fresh(), recorder)
        return len(recorder.calls)


@pytest.fixture(params=scenarios.ALL, ids=lambda one: one.name)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    scenario: Scenario = request.param
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with memory_folder() as folder:
        yield make_bench(scenario, folder)


def make_bench(scenario: Scenario, folder: Path) -> Bench:
    tiny = scenario.make(folder)
    start = tree(tiny.site)
    copy_tree(tiny.site, folder / "kept" / "start")
    assert tiny.apply().exit is Exit.OK
    patched = tree(tiny.site)
    assert tiny.rollback().exit is Exit.OK
    return Bench(scenario, tiny, folder, start, tree(tiny.site), patched)


def without_litter(found: dict[str, Node]) -> dict[str, Node]:
    """Remove the directory of a finished journal from the tree: it holds nothing relevant."""
    return {name: node for name, node in found.items() if "gaudi-patch.journal" not in name}


def assert_truth(tiny: Tiny, bench: Bench) -> str:
    """Assert that one plain `check` is right and changes nothing; return "pristine", "patched" or "interrupted"."""
    before = tree(tiny.site, times=True)
    result = tiny.check()
    assert tree(tiny.site, times=True) == before
    for path in tiny.patched:
        allowed = [side.get(path, (None, None))[:2] for side in (bench.start, bench.pristine, bench.patched)]
        assert before.get(path, (None, None))[:2] in allowed, f"{path} is in a third state"
    if [error.code for error in result.errors] == ["interrupted"]:
        assert result.exit is Exit.REFUSED
        assert (tiny.home / "journal.json").exists()
        return "interrupted"
    assert not (tiny.home / "journal.json").exists()
    found = without_litter(tree(tiny.site))
    if result.exit is Exit.OK:
        assert found == bench.patched
        return "patched"
    # Pristine, or the initial state of the scenario (partly patched, or an older series).
    assert found in (bench.pristine, bench.start), result
    return "pristine"


def assert_whole_after(verb: str, tiny: Tiny, bench: Bench) -> None:
    """Assert that one `apply` or `rollback` reaches a whole state, to the byte."""
    result = tiny.apply() if verb == "apply" else tiny.rollback()
    assert result.exit is Exit.OK, result
    assert tree(tiny.site) == (bench.patched if verb == "apply" else bench.pristine)
    assert tiny.check().exit is (Exit.OK if verb == "apply" else Exit.PENDING)


def verbs_for(number: int) -> tuple[str, ...]:
    return VERBS if FULL else (VERBS[number % 2],)


def spread(cases: Iterable[Case], limit: int) -> list[Case]:
    """Return all cases, or a sample of ``limit`` that is the same in each run."""
    every = list(cases)
    return every if FULL or len(every) <= limit else random.Random(0).sample(every, limit)


def test_killed_at_every_step(bench: Bench, count: Count) -> None:
    """case_1 case_2: a kill -9 between any two steps."""
    steps = bench.steps()
    seen = set()
    for at in range(steps):
        victim = bench.fresh()
        assert in_child(lambda at=at, victim=victim: bench.scenario.verb(victim, KillAt(at))) == KILLED
        seen.add(assert_truth(victim, bench))
        bench.keep("killed")
        for verb in verbs_for(at):
            assert_whole_after(verb, bench.back_to("killed"), bench)
    assert "interrupted" in seen
    assert seen & {"patched", "pristine"}
    count("kill points", steps)


def test_killed_again_while_recovering(bench: Bench, count: Count) -> None:
    """case_2: a kill at step n, then at step m of the run that recovers."""
    tried = 0
    for at, again in spread(itertools.product(range(bench.steps()), range(70)), 40):
        verb = VERBS[(at + again) % 2]
        victim = bench.fresh()
        assert in_child(lambda at=at, victim=victim: bench.scenario.verb(victim, KillAt(at))) == KILLED
        if in_child(lambda again=again, victim=victim, verb=verb: run(verb, victim, KillAt(again))) != KILLED:
            continue  # the second run has fewer steps
        tried += 1
        assert_truth(victim, bench)
        assert_whole_after(VERBS[again % 2], victim, bench)
    assert tried
    count("pairs of kill points", tried)


def outcome(work: Callable[[], Result]) -> Result | GaudiPatchError:
    try:
        return work()
    except GaudiPatchError as error:
        return error


def run(verb: str, tiny: Tiny, disk: Disk) -> Result:
    return tiny.apply(disk) if verb == "apply" else tiny.rollback(disk)


def test_an_error_at_every_step_is_undone(bench: Bench, count: Count) -> None:
    """case_3 case_4: ENOSPC, EIO, EACCES, EROFS, EINTR, EDQUOT, ESTALE, each raised once: exit 4, nothing changed."""
    tried = 0
    for at, number in spread(itertools.product(range(bench.steps()), ERRORS), 80):
        victim = bench.fresh()
        disk = FailAt(at, number)
        result = outcome(lambda disk=disk, victim=victim: bench.scenario.verb(victim, disk))
        if isinstance(result, GaudiPatchError):
            assert (result.exit, result.code) == (Exit.ENVIRONMENT, errno.errorcode[number].lower())
            assert tree(victim.site) == bench.start
        else:
            # The commit was done: only litter is left, and it is reported.
            assert result.exit is Exit.OK
            assert result.warnings, at
            assert assert_truth(victim, bench) == ("patched" if bench.scenario.ends_patched else "pristine")
        assert disk.failed
        tried += 1
        assert_truth(victim, bench)
        assert_whole_after(VERBS[tried % 2], victim, bench)
    count("errors injected", tried)


def test_a_disk_that_stays_broken_is_recovered_when_it_is_well_again(bench: Bench, count: Count) -> None:
    """case_3 case_4: from step n on every step fails, including the undo's; the next run finds the journal."""
    steps = bench.steps()
    tried = 0
    for at in range(steps):
        number = ERRORS[at % len(ERRORS)]
        victim = bench.fresh()
        disk = FailAt(at, number, from_then_on=True)
        result = outcome(lambda disk=disk, victim=victim: bench.scenario.verb(victim, disk))
        if isinstance(result, GaudiPatchError):
            # 4: nothing changed but a journal's empty directory; 6: the undo did not finish.
            assert (result.exit, result.code == "undo-failed") in {(Exit.ENVIRONMENT, False), (Exit.HUMAN, True)}
            if result.exit is Exit.ENVIRONMENT:
                assert without_litter(tree(victim.site)) == bench.start, result
            else:
                assert result.details
                assert ("journal is kept" in result.message) == (victim.home / "journal.json").exists()
        else:
            assert (result.exit, bool(result.warnings)) == (Exit.OK, True)
        assert_truth(victim, bench)
        assert_whole_after(VERBS[at % 2], victim, bench)
        tried += 1
    count("errors injected", tried)


def test_an_error_while_recovering_keeps_the_journal(bench: Bench, count: Count) -> None:
    """case_2 case_4: killed at step n, then an error in the recovery: exit 4 or 6, and the run after it succeeds."""
    tried = 0
    for at, again in spread(itertools.product(range(bench.steps()), range(70)), 40):
        victim = bench.fresh()
        assert in_child(lambda at=at, victim=victim: bench.scenario.verb(victim, KillAt(at))) == KILLED
        disk = FailAt(again, ERRORS[(at + again) % len(ERRORS)], from_then_on=bool(again % 2))
        verb = VERBS[(again // 2) % 2]
        result = outcome(lambda disk=disk, victim=victim, verb=verb: run(verb, victim, disk))
        assert result.exit in (Exit.OK, Exit.ENVIRONMENT, Exit.HUMAN), result
        if disk.failed:  # otherwise the second run has fewer steps
            tried += 1
            assert_truth(victim, bench)
            assert_whole_after(VERBS[at % 2], victim, bench)
    assert tried
    count("errors injected", tried)
