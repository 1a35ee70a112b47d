"""Run by answer.py: what this process computes for None, which LMCache's ``builtin`` keys contain."""

from __future__ import annotations

import sys


def answer() -> dict[str, object]:
    """Return ``hash(None)``, and whether it is a constant, as from Python 3.12 on; before, it is an address."""
    return {"hash": hash(None), "constant": sys.version_info >= (3, 12)}
