"""A compiled device as one file that can be copied into an image: the library and a trailer.

The trailer is one line of JSON between two marks. It names the PyTorch, machine and sources that the library fits,
and the sha256 of the library's bytes. The loader ignores it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from .options import DEVICE_VARIABLE, EmulatorError
from .pytorch import PyTorch

_BEGIN, _END = b"\nhpu-emulator-device: ", b"\n:hpu-emulator-device\n"
_TRAILER_LIMIT = 4096


@dataclasses.dataclass(frozen=True)
class Fit:
    """The environment that a compiled device fits. Any Python version does: the library uses no Python API."""

    torch: str
    torch_git: str
    cxx11_abi: bool
    machine: str
    sources: str

    @classmethod
    def of(cls, pytorch: PyTorch, sources: str) -> Fit:
        """Return the fit of a device compiled for ``pytorch``; ``sources`` is the sha256 of the C++ files."""
        return cls(pytorch.version, pytorch.git_version, pytorch.cxx11_abi, pytorch.machine, sources)

    def differences(self, other: Fit) -> list[str]:
        """Return one text for each field that differs from ``other``."""
        names = {
            "torch": "PyTorch",
            "torch_git": "PyTorch's commit",
            "cxx11_abi": "C++ ABI (cxx11)",
            "machine": "machine",
            "sources": "sources of the emulator",
        }
        return [
            f"{text} {getattr(self, name)}, not {getattr(other, name)}"
            for name, text in names.items()
            if getattr(self, name) != getattr(other, name)
        ]


def seal(library: Path, fit: Fit) -> str:
    """Append the trailer to a compiled library; return the sha256 of the whole file."""
    body = library.read_bytes()
    about = {**dataclasses.asdict(fit), "sha256": hashlib.sha256(body).hexdigest()}
    whole = body + _BEGIN + json.dumps(about, sort_keys=True).encode() + _END
    library.write_bytes(whole)
    return hashlib.sha256(whole).hexdigest()


def verify(file: Path, wanted: Fit) -> None:
    """Check that ``file`` is complete and fits.

    :raises EmulatorError: if it cannot be read, was changed, or was built for another environment.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        message = f"{DEVICE_VARIABLE} names {file}, which cannot be read: {error.strerror or error}"
        raise EmulatorError(message) from error
    body, mark, rest = content.rpartition(_BEGIN)
    about = _about(rest) if mark and rest.endswith(_END) and len(rest) < _TRAILER_LIMIT else None
    if about is None:
        message = f"{file} is not a device built by `gaudi-patch emulator build`, or is truncated"
        raise EmulatorError(message)
    if about.pop("sha256", None) != hashlib.sha256(body).hexdigest():
        message = f"{file} is damaged: its content does not match its sha256"
        raise EmulatorError(message)
    try:
        fit = Fit(**about)  # type: ignore[arg-type]
    except TypeError:
        message = f"{file} was built by another version of gaudi-patch; build it again"
        raise EmulatorError(message) from None
    if different := fit.differences(wanted):
        message = f"{file} does not fit here: it was built for {'; '.join(different)}. Build it for this PyTorch"
        raise EmulatorError(message)


def _about(rest: bytes) -> dict[str, object] | None:
    try:
        about = json.loads(rest[: -len(_END)])
    except ValueError:
        return None
    return about if isinstance(about, dict) else None


def given() -> Path | None:
    """Return the prebuilt device named in the environment, or None."""
    name = os.environ.get(DEVICE_VARIABLE)
    return Path(name) if name else None
