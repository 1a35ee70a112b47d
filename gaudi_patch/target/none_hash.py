"""Whether processes of an interpreter agree on ``hash(None)``, which LMCache's ``builtin`` keys contain.

From Python 3.12 on it is a constant (https://github.com/python/cpython/pull/99541). Before, it is None's address:
fixed if the interpreter is not position-independent, like Debian's, and otherwise different in each process. So it is
measured instead of derived from the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gaudi_patch.target.ask import AskError, Fields, ask

_PROCESSES = 4
_SECONDS = 20.0
_NO_RANDOMIZATION = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)


def agrees(python: Path, environ: Mapping[str, str]) -> bool | None:
    """Return whether several processes of ``python`` compute the same ``hash(None)``; None if inconclusive.

    It is inconclusive if they give no answer, or if this host places every process at the same addresses, because
    another host might not.
    """
    try:
        answers = [ask(python, "hash_none.py", timeout=_SECONDS, environ=environ) for _ in range(_PROCESSES)]
        hashes = {(Fields(answer).number("hash"), Fields(answer).flag("constant")) for answer in answers}
    except AskError:
        return None
    if len(hashes) > 1:
        return False
    ((_, constant),) = hashes
    return True if constant or _randomized() else None


def _randomized() -> bool:
    """Return whether this host places processes at random addresses."""
    try:
        setting = Path("/proc/sys/kernel/randomize_va_space").read_text(encoding="ascii").strip()
        personality = int(Path("/proc/self/personality").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return False
    return setting != "0" and not personality & _NO_RANDOMIZATION
