"""Runs pytest with the arguments given: a script, since that is what the emulated HPU starts.

RUNTIME_COVERAGE_FILE names a data file: the runtime's coverage goes there, under a suffix for each process.
"""

import os
import sys

import pytest


def main() -> int:
    data = os.environ.get("RUNTIME_COVERAGE_FILE")
    if not data:
        return pytest.main(sys.argv[1:])
    import coverage

    measured = coverage.Coverage(data_file=data, data_suffix=True, branch=True, source_pkgs=["lmcache.gaudi"])
    measured.start()
    try:
        return pytest.main(sys.argv[1:])
    finally:
        measured.stop()
        measured.save()


if __name__ == "__main__":
    sys.exit(main())
