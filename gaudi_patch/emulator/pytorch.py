"""Describe the PyTorch that a compiled device must fit, from its files and without importing it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import platform
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from .options import EmulatorError

#: The oldest release with the interfaces that csrc/ needs (HPUHooksInterface with isBuilt and isAvailable).
OLDEST = (2, 7)
#: The first release whose headers need C++20.
CXX20_SINCE = (2, 14)
#: The accelerators that ATen counts if they are built in (ATen/DeviceAccelerator.cpp), by their names in version.py.
#: CUDA is not listed: the device replaces it (csrc/hooks.h).
_ACCELERATORS = {"xpu": "XPU", "hip": "ROCm"}


@dataclasses.dataclass(frozen=True)
class PyTorch:
    """A PyTorch to compile for. ``root`` is the directory with ``version.py`` and ``include``."""

    root: Path
    version: str
    git_version: str
    cxx11_abi: bool
    machine: str
    #: A built-in accelerator that the device cannot replace, with its version from version.py; "" if there is none.
    accelerator: str = ""

    @property
    def release(self) -> tuple[int, int]:
        """Return the major and minor version: ``(2, 9)`` for ``2.9.0a0+git1234``."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def standard(self) -> str:
        """Return the C++ standard of the headers."""
        return "c++20" if self.release >= CXX20_SINCE else "c++17"

    def refuse_unserved(self) -> None:
        """Raise EmulatorError if the device cannot be compiled for this PyTorch."""
        if self.release < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            message = f"PyTorch {self.version} is too old for the emulated HPU, which needs {oldest} or later"
            raise EmulatorError(message)
        if self.accelerator:
            message = (
                f"PyTorch {self.version} has {self.accelerator} built in, and PyTorch allows no HPU beside it "
                '("Cannot have both"); install the same release for the CPU or for CUDA in this environment'
            )
            raise EmulatorError(message)


def running(torch: ModuleType) -> PyTorch:
    """Describe the imported PyTorch."""
    return PyTorch(
        root=Path(str(torch.__file__)).parent,
        version=str(torch.__version__),
        git_version=str(getattr(torch.version, "git_version", "")),
        cxx11_abi=bool(torch._C._GLIBCXX_USE_CXX11_ABI),
        machine=platform.machine(),
        accelerator=_accelerator({name: getattr(torch.version, name, None) for name in _ACCELERATORS}),
    )


def installed() -> PyTorch:
    """Describe the PyTorch that this interpreter would import.

    :raises EmulatorError: if there is none.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        message = "PyTorch is not installed for this interpreter"
        raise EmulatorError(message)
    return at(Path(spec.origin).parent)


def at(root: Path) -> PyTorch:
    """Describe the PyTorch in ``root``, an installed or unpacked ``torch`` directory.

    :raises EmulatorError: if there is none, or its headers are missing.
    """
    try:
        text = (root / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{root} contains no PyTorch: version.py cannot be read ({error})"
        raise EmulatorError(message) from error
    names = "|".join(["__version__", "git_version", *_ACCELERATORS])
    values = dict(re.findall(rf"^({names})(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    if "__version__" not in values:
        message = f"{root / 'version.py'} names no version"
        raise EmulatorError(message)
    if not (root / "include" / "ATen").is_dir():
        message = f"PyTorch {values['__version__']} in {root} has no C++ headers (include/ATen)"
        raise EmulatorError(message)
    return PyTorch(
        root=root,
        version=values["__version__"],
        git_version=values.get("git_version", ""),
        cxx11_abi=_abi(root),
        machine=platform.machine(),
        accelerator=_accelerator(values),
    )


def _accelerator(values: Mapping[str, str | None]) -> str:
    return next((f"{name} {values[field]}" for field, name in _ACCELERATORS.items() if values.get(field)), "")


def _abi(root: Path) -> bool:
    # Only the CMake files record the ABI; PyTorch stopped recording it when the new ABI became the only one.
    config = root / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        match = re.search(r"_GLIBCXX_USE_CXX11_ABI=(\d)", config.read_text(encoding="utf-8"))
        return match is None or match[1] == "1"
    return True


@contextlib.contextmanager
def named(place: Path | None) -> Iterator[PyTorch]:
    """Describe the PyTorch in ``place``: a ``torch`` directory, its parent, or a wheel; None: the installed one.

    Only the headers of a wheel are unpacked, and removed when the context ends.

    :raises EmulatorError: if there is none.
    """
    if place is None:
        yield installed()
    elif place.is_dir():
        yield at(place / "torch" if (place / "torch" / "version.py").is_file() else place)
    elif place.suffix == ".whl":
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(place, Path(scratch))
            yield at(Path(scratch) / "torch")
    else:
        message = f"{place} is neither a directory nor a wheel of PyTorch"
        raise EmulatorError(message)


def _unpack(wheel: Path, directory: Path) -> None:
    wanted = ("torch/version.py", "torch/share/cmake/Torch/TorchConfig.cmake")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n in wanted or n.startswith("torch/include/")]
            archive.extractall(directory, names)  # zipfile keeps every name below the directory
    except (OSError, zipfile.BadZipFile) as error:
        message = f"{wheel} cannot be read as a wheel: {error}"
        raise EmulatorError(message) from error
