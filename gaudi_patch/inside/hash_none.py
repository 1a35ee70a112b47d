"""Run by answer.py: compute the hash of None, which is part of LMCache's ``builtin`` keys."""

from __future__ import annotations

import sys


def answer() -> dict[str, object]:
    """Return ``hash(None)``, and whether it is constant: it is since Python 3.12; before, it is an address."""
    return {"hash": hash(None), "constant": sys.version_info >= (3, 12)}
