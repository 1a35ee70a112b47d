"""Answer, as JSON in a file, what this interpreter has. LMCache is looked up and not imported."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path


def found(name: str) -> bool:
    """Whether the module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def hpu() -> "tuple[bool, str]":
    """Whether the installed Habana software sees a device, and why not."""
    if not found("habana_frameworks"):
        return False, "habana_frameworks is not installed"
    if not found("torch"):
        return False, "PyTorch is not installed"
    try:
        device = importlib.import_module("habana_frameworks.torch.hpu")
        if not device.is_available():
            return False, "torch.hpu.is_available() is False"
        count = int(device.device_count())
    except Exception as error:  # whatever the vendor's package raises where there is no driver
        return False, f"habana_frameworks cannot be used: {type(error).__name__}: {error}"
    return count > 0, "" if count > 0 else "torch.hpu.device_count() is 0"


def main() -> None:
    """Usage: ``inspect_target.py ANSWER [MODULE...]``."""
    answer, modules = Path(sys.argv[1]), sys.argv[2:]
    available, problem = hpu()
    data = {
        "torch": found("torch"),
        "lmcache": found("lmcache"),
        "hpu": available,
        "hpu_problem": problem,
        "missing": [name for name in modules if not found(name)],
    }
    answer.write_text(json.dumps(data), encoding="utf-8")


main()
