"""Targets whose owner means harm: links, forged files, FIFOs, devices, huge and deep files, odd names.

Each case is a function that spoils a target. ``victim`` is what nothing may touch; ``SECRET`` what nothing may copy.
"""

from tests.support.hostile import forged, links, names, no_files
from tests.support.hostile.spoiling import CASES, SECRET, Case, make_victim, snapshot

__all__ = ["CASES", "SECRET", "Case", "forged", "links", "make_victim", "names", "no_files", "snapshot"]
