"""Guards that keep a target from doing harm and a run from making false claims, with an edit that removes each.

``python -m tests.scripts.safety_mutants`` makes these edits and runs the tests named with them.
"""

from __future__ import annotations

from tests.support.guard import Guard
from tests.support.guards_of_files import FILES
from tests.support.guards_of_words import WORDS

GUARDS: tuple[Guard, ...] = (*FILES, *WORDS)
