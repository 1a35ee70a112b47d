"""Run a script with the emulated HPU active: ``python -m gaudi_patch.emulator SCRIPT [ARGS]``, or by path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def _package() -> str:
    """Return the name of this package in ``sys.modules``; load it first if Python was given its directory."""
    if __package__:
        return __package__
    if "hpu_emulator" not in sys.modules:
        here = Path(__file__).resolve().parent
        spec = importlib.util.spec_from_file_location(
            "hpu_emulator", here / "__init__.py", submodule_search_locations=[str(here)]
        )
        if spec is None or spec.loader is None:
            message = f"cannot load the package in {here}"
            raise ImportError(message)
        module = importlib.util.module_from_spec(spec)
        sys.modules["hpu_emulator"] = module
        spec.loader.exec_module(module)
        # Python added this directory to the path; remove it, so that bare names do not find the modules in it.
        sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    return "hpu_emulator"


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{_package()}.cli").main(sys.argv[1:]))
