"""Run by answer.py: where this interpreter's PyTorch is, without importing it."""

from __future__ import annotations

import importlib.util
import os


def answer() -> dict[str, str]:
    """Give the directory of the package ``torch``; an empty string where there is none."""
    spec = importlib.util.find_spec("torch")
    return {"torch": os.path.dirname(spec.origin) if spec is not None and spec.origin else ""}  # noqa: PTH120 - few imports in the target
