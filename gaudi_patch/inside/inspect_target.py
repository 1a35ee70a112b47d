"""Run by answer.py: report the modules and devices of this interpreter, without importing LMCache."""

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
    """Return whether the installed Habana software sees a device, and if not, why."""
    if not found("habana_frameworks"):
        return False, "habana_frameworks is not installed"
    if not found("torch"):
        return False, "PyTorch is not installed"
    try:
        device = importlib.import_module("habana_frameworks.torch.hpu")
        if not device.is_available():
            return False, "torch.hpu.is_available() is False"
        count = int(device.device_count())
    except Exception as error:  # the vendor's package may raise anything without a driver
        return False, f"habana_frameworks cannot be used: {type(error).__name__}: {error}"
    return count > 0, "" if count > 0 else "torch.hpu.device_count() is 0"


def answer(*modules: str) -> dict[str, object]:
    """Return the state of the device, and the missing ones of ``modules``."""
    available, problem = hpu()
    return {
        "torch": found("torch"),
        "lmcache": found("lmcache"),
        "hpu": available,
        "hpu_problem": problem,
        "missing": [name for name in modules if not found(name)],
    }
