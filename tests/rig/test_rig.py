"""Faults injected from outside into real commands: no third state, lie, foreign write or dead end.

A seeded sample; GAUDI_PATCH_TEST_FULL=1 tries thousands. ``python -m tests.rig`` takes another seed, or repeats one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.rig import campaign
from tests.rig.campaign import Campaign
from tests.support.faults import FULL, memory_folder

SAMPLE, THOROUGH = 220, 5500

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler to build the preloaded library"
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Campaign]:
    with memory_folder() as folder:
        yield Campaign(folder)


def test_without_a_fault_each_state_is_what_the_series_says_and_the_same_by_every_way_to_it(rig: Campaign) -> None:
    """Files, RECORD and bytecode by hash: an update equals a first apply, and a rollback restores the installation."""
    assert not rig.clean_faults


def test_no_fault_leads_to_a_third_state_a_lie_a_write_elsewhere_or_a_dead_end(
    rig: Campaign, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    count = THOROUGH if FULL else SAMPLE
    reports = list(rig.run(rig.jobs(count, seed=1)))
    arrived = [report for report in reports if report.arrived]
    record_property("faults injected from outside", len(arrived))
    with capsys.disabled():
        print(f"\n{campaign.summary(reports)}")
    assert len(arrived) > 0.95 * count, "the faults do not arrive: the rig is blind"
    failed = [str(report) for report in reports if report.findings]
    assert not failed, "\n\n".join(failed[:20])
