"""Start processes that never outlive the probe, however it ends."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.inside import lifeline
else:  # run by path: the target has no gaudi_patch, and inside/ must not be on sys.path
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
    """Start a process that the kernel kills when this process ends; it stays in the same process group.

    ``output`` receives its stdout and stderr. Output, ``environ`` and ``folder`` are inherited by default.
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
    line.tie(process.pid)  # kept until this process ends: it has only a few children
    return process
