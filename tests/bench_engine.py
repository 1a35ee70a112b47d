"""How time and memory of the engine grow: ``python tests/bench_engine.py``. It prints; it asserts nothing by time.

Each row doubles its size; a linear engine doubles its seconds, so the last column stays about 1.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from gaudi_patch.series import diff, explain, hunks


@dataclass(frozen=True)
class Case:
    original: bytes
    patch: bytes


def one_change_in(every: int, lines: list[bytes], context: int = 3) -> Case:
    """Change one line in every ``every`` lines."""
    out = [b"diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n"]
    count = 2 * context + 1
    for at in range(context + 1, len(lines) - context - 1, every):
        start = at - context + 1
        out.append(b"@@ -%d,%d +%d,%d @@\n" % (start, count, start, count))
        out += [b" " + line for line in lines[at - context : at]]
        out += (b"-" + lines[at], b"+changed\n")
        out += [b" " + line for line in lines[at + 1 : at + context + 1]]
    return Case(b"".join(lines), b"".join(out))


def distinct(size: int) -> Case:
    return one_change_in(8, [b"line %d\n" % at for at in range(size)])


def two_symbols(size: int) -> Case:
    """Return a case with every line size/2 times and every hunk once: the worst case for a search by rare lines."""
    rng = random.Random(1)
    blocks = [b"".join(b"a\n" if at >> bit & 1 else b"b\n" for bit in range(20)) + b"c\n" for at in range(size // 21)]
    rng.shuffle(blocks)
    return one_change_in(63, hunks.split(b"".join(blocks)), context=21)


def repeated(size: int) -> Case:
    return one_change_in(8, [b"pass\n"] * size)


def long_lines(size: int) -> Case:
    return one_change_in(800, [b"%d" % at + b"x" * 1000 + b"\n" for at in range(size // 8)])


CASES: dict[str, Callable[[int], Case]] = {
    "distinct lines": distinct,
    "two symbols": two_symbols,
    "all lines equal": repeated,
    "long lines": long_lines,
}


def measure(work: Callable[[], object]) -> tuple[float, str]:
    start = time.process_time()
    try:
        work()
        result = "ok"
    except hunks.HunkMismatch as mismatch:
        result = mismatch.reason
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000, help="lines of the smallest file")
    parser.add_argument("--doublings", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory too (slower)")
    options = parser.parse_args()
    print(f"{'case':16}{'step':10}{'MB':>8}{'hunks':>8}{'seconds':>9}{'peak MB':>9}{'x size':>8}  result")
    for name, make in CASES.items():
        before: dict[str, float] = {}
        for doubling in range(options.doublings + 1):
            case = make(options.lines << doubling)
            files = diff.parse(case.patch, name)
            last = files[0].hunks[-1]
            steps: dict[str, tuple[int, Callable[[], object]]] = {
                "parse": (len(case.patch), lambda case=case: diff.parse(case.patch, "patch")),
                "render": (len(case.patch), lambda files=files: diff.render(files)),
                "apply": (len(case.original), lambda c=case, f=files: hunks.apply(c.original, f[0].hunks)),
                "offset": (
                    len(case.original),
                    lambda c=case, f=files: hunks.apply(b"#\n" + c.original, f[0].hunks, allow_offset=True),
                ),
                "explain": (
                    len(case.original),
                    lambda c=case, last=last: explain.explain(b"#\n" + c.original, last),
                ),
            }
            for step, (size, work) in steps.items():
                peak = 0
                if options.memory:
                    tracemalloc.start()
                    measure(work)
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                seconds, result = measure(work)
                growth = seconds / before[step] / 2 if step in before else 1.0
                before[step] = seconds
                print(
                    f"{name:16}{step:10}{size / 1e6:8.1f}{len(files[0].hunks):8}{seconds:9.3f}{peak / 1e6:9.0f}"
                    f"{growth:8.2f}  {result}"
                )


if __name__ == "__main__":
    main()
