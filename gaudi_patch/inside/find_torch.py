"""Run by answer.py: find this interpreter's PyTorch without importing it."""

from __future__ import annotations

import importlib.util
import os


def answer() -> dict[str, str]:
    """Return the directory of the package ``torch``, "" if it is not installed."""
    spec = importlib.util.find_spec("torch")
    return {"torch": os.path.dirname(spec.origin) if spec is not None and spec.origin else ""}  # noqa: PTH120 - few imports in the target
