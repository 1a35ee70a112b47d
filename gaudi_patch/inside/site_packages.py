"""Run by answer.py: list the directories of this interpreter's installed packages."""

from __future__ import annotations

import sysconfig


def answer() -> list[str]:
    """Return the purelib and platlib directories, each once."""
    return sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})
