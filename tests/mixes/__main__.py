"""Serve random mixes of requests over every way, and compare with the expected results: ``python -m tests.mixes``.

``--mixes 1-112`` selects mixes of each way, ``--way NAME ...`` selects ways, ``--release`` another LMCache, ``--rules
eager`` eager mode. ``--mutant TEXT`` puts a fault of tests/smoke/mutants.py into the patched LMCache, which must be
detected. Exit 0: all results are as computed, and every promise matches what was stored. Exit 1: some differ, and the
command for the first such mix is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from packaging.version import Version

from tests.mixes import serve
from tests.mixes.ways import WAYS, Way
from tests.smoke.conftest import patch
from tests.smoke.mutants import MUTANTS, Mutant
from tests.support import environments

RELEASE = "0.5.6"
#: With this many mixes, some have hits.
_ENOUGH = 10


def _numbers(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _has(release: str, way: Way) -> bool:
    """Return whether a release has a way: before 0.5.5, LMCache has no multiprocess mode for an HPU."""
    return not way.multiprocess or Version(release) >= Version("0.5.5")


def _mutant(text: str) -> Mutant:
    found = [mutant for mutant in MUTANTS if text in mutant.name]
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{len(found)} mutants have {text!r} in their name")
    return found[0]


def main() -> int:
    """Serve the mixes, way by way."""
    parser = argparse.ArgumentParser(prog="python -m tests.mixes", description=__doc__)
    parser.add_argument("--mixes", type=_numbers, default=_numbers("1-112"), metavar="FIRST-LAST")
    parser.add_argument("--way", nargs="+", choices=tuple(WAYS), help="all that the release has, by default")
    parser.add_argument("--mutant", type=_mutant, metavar="TEXT")
    parser.add_argument("--release", default=RELEASE)
    parser.add_argument("--rules", choices=("lazy", "eager"), default="lazy")
    options = parser.parse_args()
    ways = options.way or [name for name, way in WAYS.items() if _has(options.release, way)]
    red, total = False, serve.Counts()
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-mixes-") as folder:
        made = patch(environments.overlay_copy(options.release, Path(folder)))
        if any(WAYS[name].multiprocess for name in ways):
            made = serve.with_server(made)
        fault = options.mutant.put_into(made.site_packages) if options.mutant else contextlib.nullcontext()
        with fault:
            for way in ways:
                outcome = serve.serve(made.python, [way], options.mixes, options.rules)
                print(f"{way}: {outcome}", flush=True)
                if outcome.red:
                    red = True
                    mutant = f" --mutant {options.mutant.name!r}" if options.mutant else ""
                    release = "" if options.release == RELEASE else f" --release {options.release}"
                    rules = " --rules eager" if options.rules == "eager" else ""
                    print(f"  again: python -m tests.mixes{release}{rules}{outcome.again}{mutant}", flush=True)
                total += outcome.counts
    if len(options.mixes) >= _ENOUGH and not total.hits:
        red = True
        print("LMCache served nothing")
    print(f"{total.mixes} mixes, {total}: {'RED' if red else 'all as computed'}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
