"""The rig by hand: ``python -m tests.rig --count 500 --seed 7``; ``--scenario apply --fault rename:6:EIO``: one again.

A fault is KIND:NUMBER:WHAT, with "+" where it stays from then on; it is printed so in each report.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tests.rig import campaign
from tests.rig.attack import SCENARIOS, Report
from tests.rig.campaign import Campaign, Job
from tests.rig.trace import Fault
from tests.support.faults import memory_folder


def _fault(text: str) -> Fault:
    kind, number, what = text.split(":")
    return Fault(kind, int(number), what.rstrip("+"), what.endswith("+"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="how many faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS])
    parser.add_argument("--fault", action="append", type=_fault, help="these alone, in each scenario")
    parser.add_argument("--next", choices=("apply", "rollback"), default="apply", help="after --fault")
    parser.add_argument("--json", action="store_true", help="with --fault: run the command with --json")
    options = parser.parse_args()
    scenarios = [one for one in SCENARIOS if not options.scenario or one.name in options.scenario]
    with memory_folder() as folder:
        rig = Campaign(folder, scenarios)
        for fault in rig.clean_faults:
            print(f"without a fault: {fault}\n")
        jobs = rig.jobs(options.count, options.seed)
        if options.fault:
            jobs = [Job(one.name, fault, options.next, options.json) for one in scenarios for fault in options.fault]
        reports: list[Report] = []
        # A long run that is cut short still reports what it found.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for report in rig.run(jobs):
                reports.append(report)
                if report.findings or options.fault:
                    print(f"{report}\n", flush=True)
        except KeyboardInterrupt:
            print(f"interrupted after {len(reports)} of {len(jobs)}")
            print(campaign.summary(reports))
            return 130
    print(campaign.summary(reports))
    return 1 if rig.clean_faults or any(report.findings for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
