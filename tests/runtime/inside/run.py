"""Run pytest with the given arguments; a script, because the emulated HPU starts scripts.

If RUNTIME_COVERAGE_FILE names a data file, the runtime's coverage is written there, with a suffix per process.
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
