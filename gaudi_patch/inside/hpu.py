"""Run by answer.py: report the devices that pyhlml and torch.hpu see, without acquiring one: a server may own them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def found(name: str) -> bool:
    """Return whether a top-level module can be found, without importing it."""
    return importlib.util.find_spec(name) is not None


def torch_hpu() -> dict[str, Any]:
    """Return the availability and device count of torch.hpu, and the ``reason`` if it is unavailable."""
    for name in ("torch", "habana_frameworks"):
        if not found(name):
            return {"installed": False, "reason": f"{name} is not installed in the target"}
    try:
        importlib.import_module("habana_frameworks.torch")
        hpu = importlib.import_module("torch").hpu
        return {"installed": True, "available": bool(hpu.is_available()), "count": int(hpu.device_count())}
    except Exception as error:  # the vendor's package may raise anything if a library or the driver is missing
        return {"installed": True, "available": False, "count": 0, "reason": f"{type(error).__name__}: {error}"}


def hlml() -> dict[str, Any]:
    """Return the number of cards reported by the management library."""
    if not found("pyhlml"):
        return {"installed": False}
    try:
        library = importlib.import_module("pyhlml")
        library.hlmlInit()
        count = int(library.hlmlDeviceGetCount())
        library.hlmlShutdown()
        return {"installed": True, "count": count}
    except Exception as error:  # its own error classes, or a missing shared library
        return {"installed": True, "reason": f"{type(error).__name__}: {error}"}


def answer() -> dict[str, Any]:
    """Return the reports of both."""
    return {"torch": torch_hpu(), "hlml": hlml()}
