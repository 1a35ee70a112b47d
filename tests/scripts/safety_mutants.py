"""Take the guards of the engine away, one at a time, and see the tests that are about them fail.

    python -m tests.scripts.safety_mutants [--name TEXT ...] [--only N-M]

Each mutant is one edit of the product (tests/support/safety.py), made in a copy of this checkout that an interpreter of
its own imports, its children included. Exit 0: the tests pass on the copy as it is, and fail with each edit; 1: a
mutant lives, or the copy fails as it is.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from tests.support.environments import clean_environment
from tests.support.guard import Guard
from tests.support.safety import GUARDS

REPOSITORY = Path(__file__).resolve().parents[2]
#: Seconds for all tests, and for the tests of one guard: a mutant may hang if a limit is gone.
ALL_TIMEOUT = 3600
TIMEOUT = 600


def copy_to(folder: Path) -> Path:
    """Copy the checkout's product and tests, and return an interpreter that imports them from the copy."""
    checkout = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", ".venv", ".git", "*.egg-info", ".*_cache")
    shutil.copytree(REPOSITORY, checkout, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # The copy comes first, so the checkout installed in the other environment is not imported.
    (site / "copy.pth").write_text(f"{checkout}\n{sysconfig.get_path('purelib')}\n")
    python = folder / "venv" / "bin" / "python"
    script = python.with_name("gaudi-patch")
    script.write_text(f"#!{python}\nimport sys\nfrom gaudi_patch.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return python


def run(
    python: Path, checkout: Path, tests: tuple[str, ...], timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run tests in the copy, up to the first failure."""
    command = [str(python), "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, timeout=timeout, env=clean_environment(), check=False
    )


def judge(guard: Guard, python: Path, checkout: Path) -> str:
    """Return the test that fails without the guard, "" if all pass."""
    file = checkout / guard.file
    before = file.read_text(encoding="utf-8")
    if before.count(guard.code) != 1:
        raise SystemExit(f"{guard.file} has {guard.code!r} {before.count(guard.code)} times: renew the table")
    file.write_text(before.replace(guard.code, guard.without), encoding="utf-8")
    try:
        done = run(python, checkout, guard.tests)
    except subprocess.TimeoutExpired:
        return f"no end within {TIMEOUT} s"
    finally:
        file.write_text(before, encoding="utf-8")
    if done.returncode == 0:
        return ""
    # ERROR: a test's setup failed; without "::", a file could not be read, which proves nothing.
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if done.returncode != 1 or not failed or "::" not in failed[0]:
        raise SystemExit(f"{guard.name}: no test was judged\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return failed[0].partition(" ")[2]


def numbers(text: str) -> range:
    """Parse "N" or "N-M", counted from 1; raises ArgumentTypeError for numbers outside the table."""
    first, _, last = text.partition("-")
    part = range(int(first) - 1, int(last or first))
    if not part or part.start < 0 or part.stop > len(GUARDS):
        raise argparse.ArgumentTypeError(f"the guards are 1-{len(GUARDS)}")
    return part


def main() -> int:
    """Run the mutants and print the count."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripts.safety_mutants", description=__doc__)
    parser.add_argument("--name", action="append", default=[], help="only those whose name has this text")
    parser.add_argument("--only", type=numbers, default=range(len(GUARDS)), metavar="N-M", help="a part, from 1 on")
    options = parser.parse_args()
    part, wanted = [GUARDS[number] for number in options.only], options.name
    guards = [guard for guard in part if not wanted or any(text in guard.name for text in wanted)]
    if not guards:
        print(f"no guard is called {' or '.join(wanted)}", file=sys.stderr)
        return 1
    alive = []
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-guards-") as name:
        python = copy_to(Path(name).resolve())
        checkout = Path(name).resolve() / "checkout"
        clean = run(python, checkout, tuple(sorted({test for guard in guards for test in guard.tests})), ALL_TIMEOUT)
        if clean.returncode:
            print(f"the tests fail with every guard in place\n{clean.stdout[-3000:]}", file=sys.stderr)
            return 1
        for guard in guards:
            begun = time.monotonic()
            failed = judge(guard, python, checkout)
            print(f"{guard.name}: {failed or 'LIVES'} [{time.monotonic() - begun:.0f} s]", flush=True)
            alive += [] if failed else [guard.name]
    print(f"{len(guards) - len(alive)} of {len(guards)} guards are missed by a test when they are gone")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
