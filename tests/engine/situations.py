"""Helpers of the tests in this directory: situations."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Result


def refusal(result: Result) -> tuple[Exit, str]:
    """Return the exit and the code of the one error of a check."""
    (error,) = result.errors
    assert error.exit is result.exit
    return result.exit, error.code


def _write(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
        return
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
