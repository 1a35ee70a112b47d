"""Many faults, two at a time, and their count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tests.rig import place, points
from tests.rig.attack import SCENARIOS, Attack, Report, Scenario
from tests.rig.trace import Fault

#: Concurrent processes; each has its own disk.
WORKERS = 2


class Job(NamedTuple):
    scenario: str
    fault: Fault
    next_verb: str
    as_json: bool


class Campaign:
    """Places, and the attacks prepared at each."""

    def __init__(self, folder: Path, scenarios: Sequence[Scenario] = SCENARIOS, workers: int = WORKERS) -> None:
        self.scenarios = scenarios
        self.places = [place.make(folder / f"disk-{number}") for number in range(workers)]
        self.attacks = [{one.name: Attack(where, one) for one in scenarios} for where in self.places]

    @property
    def clean_faults(self) -> list[str]:
        """Return the faults found after runs without any injected fault."""
        return self.places[0].faults

    def jobs(self, count: int, seed: int) -> list[Job]:
        """Return ``count`` jobs, equally many per scenario; scenarios, next commands and output formats alternate."""
        rows = []
        for one in self.scenarios:
            faults = points.sample(self.attacks[0][one.name].faults(), -(-count // len(self.scenarios)), seed)
            rows.append(
                [
                    Job(one.name, fault, ("apply", "rollback")[number % 2], number % 3 == 0)
                    for number, fault in enumerate(faults)
                ]
            )
        return [job for turn in zip_longest(*rows) for job in turn if job is not None]

    def run(self, jobs: Sequence[Job]) -> Iterator[Report]:
        """Run all jobs; yield the reports in job order. If the caller stops, jobs not yet started are dropped."""
        free: Queue[dict[str, Attack]] = Queue()
        for attacks in self.attacks:
            free.put(attacks)

        def one(job: Job) -> Report:
            attacks = free.get()
            try:
                return attacks[job.scenario].run(job.fault, job.next_verb, as_json=job.as_json)
            finally:
                free.put(attacks)

        pool = ThreadPoolExecutor(len(self.attacks))
        try:
            yield from pool.map(one, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


def count(reports: Sequence[Report]) -> Counter[str]:
    """Return the number of faults per kind of finding."""
    return Counter(kind for report in reports for kind in {finding.kind for finding in report.findings})


def summary(reports: Sequence[Report]) -> str:
    """Return a line with the number of faults tried and their findings."""
    found = count(reports)
    arrived = sum(report.arrived for report in reports)
    return (
        f"faults injected from outside: {arrived}; third states {found['third']}; lies {found['lie'] + found['bug']}; "
        f"writes outside {found['outside']}; dead ends {found['dead-end'] + found['hang']}; litter {found['litter']}"
    )
