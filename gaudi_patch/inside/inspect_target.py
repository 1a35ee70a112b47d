"""Run by answer.py: what this interpreter has. LMCache is looked up and not imported."""

from __future__ import annotations

import importlib
import importlib.util


def found(name: str) -> bool:
    """Return whether the module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def hpu() -> tuple[bool, str]:
    """Return whether the installed Habana software sees a device, and why not."""
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


def answer(*modules: str) -> dict[str, object]:
    """Look for the device, and for each of ``modules``."""
    available, problem = hpu()
    return {
        "torch": found("torch"),
        "lmcache": found("lmcache"),
        "hpu": available,
        "hpu_problem": problem,
        "missing": [name for name in modules if not found(name)],
    }
