"""Run by answer.py: report the full version of this interpreter."""

from __future__ import annotations

import sys


def answer() -> str:
    """Return the version, for example ``3.12.1``."""
    return ".".join(map(str, sys.version_info[:3]))
