"""Run by answer.py: where this interpreter's installers put packages."""

from __future__ import annotations

import sysconfig


def answer() -> list[str]:
    """Return the directories, each once."""
    return sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})
