"""Run another script of this directory and measure the runtime's coverage: ``measured.py SCRIPT ARGUMENTS``.

RUNTIME_COVERAGE_FILE names the data file, which gets a suffix per process. RUNTIME_COVERAGE_PACKAGE is the path of the
package ``coverage``, which the script's environment need not have.
"""

import importlib.util
import os
import pathlib
import runpy
import sys


def main() -> None:
    package = os.environ["RUNTIME_COVERAGE_PACKAGE"]
    spec = importlib.util.spec_from_file_location(
        "coverage", pathlib.Path(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    coverage = importlib.util.module_from_spec(spec)
    sys.modules["coverage"] = coverage
    spec.loader.exec_module(coverage)
    measured = coverage.Coverage(
        data_file=os.environ["RUNTIME_COVERAGE_FILE"],
        data_suffix=True,
        branch=True,
        include=["*/lmcache/gaudi/*"],
        config_file=False,
    )
    leave = os._exit

    def save() -> None:
        measured.stop()
        measured.save()

    def save_and_leave(status: int) -> None:
        save()
        leave(status)

    os._exit = save_and_leave  # type: ignore[assignment] - most scripts end so: LMCache's threads do not end
    measured.start()
    sys.argv = sys.argv[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        save()  # the others end as any script does, with their output written


if __name__ == "__main__":
    main()
