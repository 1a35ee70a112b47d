"""The direct path in every release: level engine with its copies counted, and the allocator compared with LMCache's.

``python -m tests.support.direct_releases`` patches each release in a separate environment and runs the smoke level
engine on the emulated HPU in both modes. Then it runs ``tests/runtime/inside/allocator.py`` (1,000 random allocations
and frees against LMCache's allocator, six threads, pinning that is slow or fails), and prints a table. The level itself
includes eviction from a tiny pool. ``--releases 0.3.7,0.5.6`` selects releases, ``--rules`` one mode. ``--results
FILE`` keeps the results and adds to those in the file; ``--table`` only prints it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from gaudi_patch.series.manifest import load
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.runtime.inside_scripts import lines
from tests.support import environments
from tests.support.cli import gaudi_patch

RELEASES = sorted((one.id for one in load().series), key=Version)
RULES = ("lazy", "eager")
#: The counts of the smoke level, summed over its backends, with and without MLA, stores and loads.
COUNTED = "whole chunks"
ALLOCATOR = "6 cases passed"

Row = dict[str, Any]


def row(version: str, results: Sequence[LevelResult], allocator: str) -> Row:
    """Return the recorded results of a release: its level by mode, and the last line of the allocator's script."""
    modes = {
        one.rules: {
            "status": one.status,
            "reason": one.reason,
            "checks": one.checks,
            **one.counters.workloads.get(COUNTED, {}),
        }
        for one in results
    }
    return {"version": version, "modes": modes, "allocator": allocator}


def is_green(kept: Row) -> bool:
    """Return whether all passed, copies were counted, and neither the host nor the bridge copied a byte of them."""
    return kept["allocator"] == ALLOCATOR and all(_passed(kept["modes"].get(rules, {})) for rules in RULES)


def merge(kept: Sequence[Row], new: Row) -> list[Row]:
    """Return both, oldest release first; a new row replaces a kept row about the same release."""
    others = [one for one in kept if one["version"] != new["version"]]
    return sorted([*others, new], key=lambda one: Version(one["version"]))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table; copies and bytes of both modes, stores and loads, together."""
    head = (
        "LMCache",
        "engine, lazy",
        "engine, eager",
        "direct copies",
        "KV",
        "copied by the host",
        "bounced",
        "allocator",
    )
    out = [_line(head), _line(["---"] * len(head))]
    for one in rows:
        modes = [one["modes"].get(rules, {}) for rules in RULES]
        level = [_level(mode) for mode in modes]
        copies, size, host, bounced = (
            sum(mode.get(name, 0) for mode in modes)
            for name in ("copies", "bytes", "host_copied_bytes", "bounce_bytes")
        )
        allocator = "as LMCache's" if one["allocator"] == ALLOCATOR else "failed"
        out.append(
            _line((one["version"], *level, str(copies), f"{size / 1e6:.1f} MB", str(host), str(bounced), allocator))
        )
    return "\n".join(out)


def check(version: str, folder: Path, rules: Sequence[str]) -> Row:
    """Patch a release in a private environment and run all checks there.

    Raises RuntimeError if the patches do not apply.
    """
    environment = environments.overlay_copy(version, folder)
    done = gaudi_patch("apply", "--no-smoke", "--python", environment.python)
    if done.code:
        raise RuntimeError(f"{version}: apply ended with {done.code}: {done.err.strip()}")
    results = runner.run(
        environment.python,
        levels=("engine",),
        device="emulated",
        rules=tuple(rules),
        timeout=600,
        environ=environments.clean_environment(),
    )
    try:
        allocator = lines(environment.python, "allocator.py", rules="lazy", timeout=600)[-1]
    except AssertionError as error:
        allocator = str(error)[-500:]
    return row(version, results, allocator)


def main() -> int:
    """Run the releases and print the table; return 1 if one is not green."""
    parser = argparse.ArgumentParser(description="Count the direct copies of every release on the emulated HPU.")
    parser.add_argument("--releases", type=releases_of, default=RELEASES)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--results", type=Path, help="a JSON file with what was found before, to be added to")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of --results")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.results and options.results.exists():
        rows = json.loads(options.results.read_text(encoding="utf-8"))
    for version in [] if options.table else options.releases:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gaudi-patch-release-") as folder:
            new = check(version, Path(folder), options.rules.split(","))
        rows = merge(rows, new)
        if options.results:
            options.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        state = "green" if is_green(new) else f"NOT GREEN: {new}"
        print(f"{version}: {state} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(markdown(rows))
    return 0 if all(map(is_green, rows)) else 1


def releases_of(text: str) -> list[str]:
    """Return the releases named by ``text``; raises ValueError for one without a series."""
    names = [name for name in text.split(",") if name]
    if unknown := sorted(set(names) - set(RELEASES)):
        raise ValueError(f"no series for {', '.join(unknown)}")
    return names


def _passed(mode: Mapping[str, Any]) -> bool:
    counted = mode.get("copies", 0) > 0 and mode.get("bytes", 0) > 0
    nothing = mode.get("host_copied_bytes") == 0 and mode.get("bounce_bytes") == 0
    return mode.get("status") == "passed" and counted and nothing


def _level(mode: Mapping[str, Any]) -> str:
    if not mode:
        return "not run"
    return f"passed ({mode['checks']})" if mode["status"] == "passed" else str(mode["status"])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
