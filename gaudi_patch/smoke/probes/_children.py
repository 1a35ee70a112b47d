"""Processes that a probe starts, none of which outlives it, however it ends."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.inside import lifeline
else:  # run by path: in the target there is no gaudi_patch, and inside/ is not to be on sys.path
    _file = Path(__file__).resolve().parents[2] / "inside" / "lifeline.py"
    _spec = importlib.util.spec_from_file_location("_lifeline", _file)
    lifeline = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(lifeline)


def start(
    command: Sequence[str],
    *,
    output: IO[bytes] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this one ends; it stays in this one's process group.

    ``output`` gets its stdout and stderr. Without it, and without ``environ`` and ``folder``, it has those of this one.
    """
    line = lifeline.Lifeline()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env=None if environ is None else dict(environ),
            cwd=folder,
            pass_fds=(line.end,),
        )
    except BaseException:
        line.cut()
        raise
    line.tie(process.pid)  # held until this process ends: it has a few children at most
    return process
