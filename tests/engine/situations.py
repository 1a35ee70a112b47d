"""Helpers of this directory's tests: situations."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Result


def refusal(result: Result) -> tuple[Exit, str]:
    """Return the exit code and the error code of a check with exactly one error."""
    (error,) = result.errors
    assert error.exit is result.exit
    return result.exit, error.code


def _write(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
        return
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
