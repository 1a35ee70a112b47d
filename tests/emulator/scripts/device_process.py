"""The shared parts of scripts that run with an active device: the modes, activation, and the report.

A script of this directory runs in its own process, with PyTorch, and writes one JSON object to the file named by its
first argument. The tests, which have no PyTorch, start it and read that file (``support.run_script``).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

#: A mode is the rules (lazy or eager) and the schedule. "sync" runs every operation at once, which hides all faults.
MODES: dict[str, dict[str, Any]] = {
    "lazy": {"lazy": True, "schedule": "lazy"},
    "eager": {"lazy": False, "schedule": "lazy"},
    "lazy-reversed": {"lazy": True, "schedule": "reversed"},
    "eager-reversed": {"lazy": False, "schedule": "reversed"},
    "lazy-sync": {"lazy": True, "schedule": "sync"},
    "eager-sync": {"lazy": False, "schedule": "sync"},
}


def activate(mode: str, **options: Any) -> Any:
    """Activate the device in a mode and return the ``Emulator``; set ``PT_HPU_LAZY_MODE`` to match."""
    settings = {**MODES[mode], **options}
    os.environ["PT_HPU_LAZY_MODE"] = "1" if settings["lazy"] else "0"
    import gaudi_patch.emulator

    return gaudi_patch.emulator.activate(**settings)


def report(path: str, result: Any) -> None:
    """Write ``result`` as JSON; without it, the parent reports that the script died."""
    Path(path).write_text(json.dumps(result))


def arguments() -> list[str]:
    """Return the script's arguments: the report's path, the mode, and the script's own arguments."""
    return sys.argv[1:]
