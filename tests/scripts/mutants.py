"""Put every fault of the table into a patched LMCache, one at a time, and see the smoke checks fail for it.

    python -m tests.scripts.mutants [--every 4] [--name TEXT ...]

Without options all of them. Exit 0: the levels pass, and fail for each fault; 1: they do not, or faults that live are
named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gaudi_patch.smoke.outcome import LevelResult
from tests.smoke.conftest import explain, judge, patch
from tests.smoke.mutants import MUTANTS, Mutant
from tests.support import environments
from tests.support.environments import Environment

VERSION = "0.5.6"


def environment(folder: Path) -> Environment:
    """Return a patched environment of ``VERSION`` below a directory, for editing."""
    return patch(environments.overlay_copy(VERSION, folder))


def sample(every: int) -> list[Mutant]:
    """Return every n-th mutant of each level and rules, including the first."""
    kinds: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for mutant in MUTANTS:
        kind = (mutant.level, mutant.rules, mutant.cases)
        if kinds[kind] % every == 0:
            chosen.append(mutant)
        kinds[kind] += 1
    return chosen


def run(mutant: Mutant, environment: Environment) -> LevelResult:
    """Return the result of the mutant's level."""
    with mutant.put_into(environment.site_packages):
        (result,) = judge(environment.python, mutant.level, rules=(mutant.rules,), arguments=mutant.arguments())
    return result


def is_killed(result: LevelResult) -> bool:
    """Return whether a check detected the fault; a probe that could not run, or invalid code, does not count."""
    ended = ("SyntaxError", "NameError")
    spoiled = any(word in failure.message for failure in result.failures for word in ended)
    return result.status == "failed" and result.checks > 0 and not spoiled


def main() -> int:
    """Run the mutants and print the count."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripts.mutants", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth of each level")
    parser.add_argument("--name", action="append", metavar="TEXT", help="only those with TEXT in their name")
    options = parser.parse_args()
    wanted = [
        one for one in sample(options.every) if not options.name or any(text in one.name for text in options.name)
    ]
    if not wanted:
        parser.error("no mutant has such a name")
    alive, killed = [], Counter[str]()
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-mutants-") as folder:
        made = environment(Path(folder))
        for level, rules in sorted({(one.level, one.rules) for one in wanted}):
            results = judge(made.python, level, rules=(rules,))
            if [one.status for one in results] != ["passed"]:  # otherwise, later failures would mean nothing
                print(f"without a fault, level {level} ({rules}) does not pass:\n{explain(results)}")
                return 1
        for mutant in wanted:
            began = time.monotonic()
            result = run(mutant, made)
            if is_killed(result):
                killed[f"{mutant.level} ({mutant.rules})"] += 1
                said = f"killed by level {mutant.level}: {result.reason[:120].splitlines()[0]}"
            else:
                alive.append(mutant.name)
                said = f"ALIVE: {result.status}, {result.reason}"
            print(f"{mutant.name}: {said} [{time.monotonic() - began:.0f} s]", flush=True)
    by_level = ", ".join(f"{level} {count}" for level, count in sorted(killed.items()))
    print(f"{killed.total()} of {len(wanted)} mutants killed by smoke alone: {by_level or 'none'}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
