"""Put every fault of the table into a patched LMCache, one at a time, and see the smoke checks fail for it.

    python -m tests.scripts.mutants [--every 4] [--name TEXT ...] [--file TEXT ...]

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
from tests.support import environments, vllm_pairs
from tests.support.environments import Environment

RELEASE = "0.5.6"
#: The vLLM of levels connector and inference, by LMCache release.
VLLM = {"0.5.6": "0.26.0", "0.3.9": "0.13.0"}


def environment(folder: Path, release: str = RELEASE, *, vllm: bool = False) -> Environment:
    """Return a patched environment of a release below a directory, for editing; with vLLM, if that is needed.

    Raises EnvironmentUnavailableError if it cannot be made.
    """
    if not vllm:
        return patch(environments.overlay_copy(release, folder))
    return patch(vllm_pairs.private_environment(vllm_pairs.Pair(release, VLLM[release]), folder))


def sample(every: int) -> list[Mutant]:
    """Return every n-th mutant of each release, level and rules, including the first."""
    kinds: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for mutant in MUTANTS:
        kind = (mutant.release, mutant.level, mutant.rules, mutant.cases)
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


def wanted(options: argparse.Namespace) -> list[Mutant]:
    """Return the mutants that the command line asks for."""
    return [
        mutant
        for mutant in sample(options.every)
        if (not options.name or any(text in mutant.name for text in options.name))
        and (not options.file or any(text in mutant.file for text in options.file))
    ]


def judge_all(chosen: list[Mutant], made: Environment) -> tuple[list[Mutant], Counter[str]]:
    """Run mutants of one environment; return those that live, and how many each level has killed.

    Raises RuntimeError if a level does not pass without a fault: later failures would mean nothing.
    """
    for level, rules, cases in sorted({(one.level, one.rules, one.cases) for one in chosen}):
        arguments = {level: ["--cases", cases]} if cases else {}
        results = judge(made.python, level, rules=(rules,), arguments=arguments)
        if [one.status for one in results] != ["passed"]:
            raise RuntimeError(f"without a fault, level {level} ({rules}) does not pass:\n{explain(results)}")
    alive, killed = [], Counter[str]()
    for mutant in chosen:
        began = time.monotonic()
        result = run(mutant, made)
        if is_killed(result):
            killed[f"{mutant.level} ({mutant.rules})"] += 1
            said = f"killed by level {mutant.level}: {result.reason[:120].splitlines()[0]}"
        else:
            alive.append(mutant)
            said = f"ALIVE: {result.status}, {result.reason}"
        print(f"{mutant.release}, {mutant.name}: {said} [{time.monotonic() - began:.0f} s]", flush=True)
    return alive, killed


def main() -> int:
    """Run the mutants and print the count."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripts.mutants", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth of each level")
    parser.add_argument("--name", action="append", metavar="TEXT", help="only those with TEXT in their name")
    parser.add_argument("--file", action="append", metavar="TEXT", help="only those with TEXT in their file's path")
    chosen = wanted(parser.parse_args())
    if not chosen:
        parser.error("no mutant has such a name or file")
    alive, killed = list[Mutant](), Counter[str]()
    for release, vllm in sorted({(one.release, one.needs_vllm) for one in chosen}):
        with tempfile.TemporaryDirectory(prefix="gaudi-patch-mutants-") as folder:
            made = environment(Path(folder), release, vllm=vllm)
            try:
                lived, died = judge_all(
                    [one for one in chosen if (one.release, one.needs_vllm) == (release, vllm)], made
                )
            except RuntimeError as error:
                print(error)
                return 1
        alive, killed = alive + lived, killed + died
    by_level = ", ".join(f"{level} {count}" for level, count in sorted(killed.items()))
    print(f"{killed.total()} of {len(chosen)} mutants killed by smoke alone: {by_level or 'none'}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
