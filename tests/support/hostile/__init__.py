"""Targets with a malicious owner: links, forged files, FIFOs, devices, huge and deep files, odd names.

Each case is a function that spoils a target. Nothing may touch ``victim``, and nothing may copy ``SECRET``.
"""

from tests.support.hostile import forged, links, names, no_files
from tests.support.hostile.spoiling import CASES, SECRET, Case, make_victim, snapshot

__all__ = ["CASES", "SECRET", "Case", "forged", "links", "make_victim", "names", "no_files", "snapshot"]
