"""Compile the device with only a C++ compiler, once per user, PyTorch, machine and source."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import prebuilt
from .options import DEVICE_VARIABLE, EmulatorError
from .prebuilt import Fit
from .pytorch import PyTorch

SOURCE = Path(__file__).resolve().parent / "csrc" / "device.cpp"
CACHE_VARIABLE = "HPU_EMULATOR_CACHE"
FLAGS = ("-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall")
#: The PyTorch libraries that the device needs, by the names under which PyTorch loads them.
LIBRARIES = ("c10", "torch_cpu")


def sources() -> list[Path]:
    """Return the C++ files that determine the library."""
    return sorted([*SOURCE.parent.glob("*.cpp"), *SOURCE.parent.glob("*.h")])


def cache_directory() -> Path:
    """Return HPU_EMULATOR_CACHE, else the user's cache directory, else a private one under the temporary directory."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # no home directory
        home = Path(base) if base else Path.home() / ".cache"
        if _can_write(home):
            return home / "hpu-emulator"
    return Path(tempfile.gettempdir()) / f"hpu-emulator-{os.getuid()}"


def _can_write(directory: Path) -> bool:
    # Not pathlib's exists: it raises if a parent is not accessible, such as root's home for another user.
    while not os.path.exists(directory) and directory != directory.parent:  # noqa: PTH110 - see above
        directory = directory.parent
    return os.access(directory, os.W_OK | os.X_OK)


def compiler() -> str:
    """Return the C++ compiler: $CXX, g++, c++ or clang++.

    :raises EmulatorError: if there is none.
    """
    for candidate in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if candidate and shutil.which(candidate):
            return candidate
    message = (
        "the emulated HPU is compiled on first use and no C++ compiler was found; install one (apt-get install g++; "
        "dnf or microdnf install gcc-c++), set CXX, or build the device elsewhere with `gaudi-patch emulator build` "
        f"and set {DEVICE_VARIABLE} to the file"
    )
    raise EmulatorError(message)


def source_digest() -> str:
    """Return the sha256 of the C++ files and their names."""
    digest = hashlib.sha256()
    for source in sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def library_path(pytorch: PyTorch) -> Path:
    """Return the path in the cache of the library for this PyTorch, whether built or not."""
    digest = hashlib.sha256()
    for part in (*dataclasses.astuple(Fit.of(pytorch, source_digest())), pytorch.standard, *FLAGS):
        digest.update(repr(part).encode() + b"\0")
    return cache_directory() / f"device-torch{pytorch.version}-{digest.hexdigest()[:16]}.so"


def library(pytorch: PyTorch) -> Path:
    """Return the compiled device: the file named by HPU_EMULATOR_DEVICE, else the cached one; build it if missing.

    :raises EmulatorError: if it cannot be built, or the named file does not fit.
    """
    pytorch.refuse_unserved()
    if (file := prebuilt.given()) is not None:
        _refuse_foreign(file.absolute())
        prebuilt.verify(file, Fit.of(pytorch, source_digest()))
        return file
    path = library_path(pytorch)
    try:
        if path.exists():
            _refuse_foreign(path)
            return path
        compiler()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign(path)
        with _locked(path.with_suffix(".lock")):
            if not path.exists():
                compile_to(path, pytorch)
    except OSError as error:
        message = (
            f"cannot build the emulated HPU in {path.parent}: {error}; set {CACHE_VARIABLE} to a directory that you own"
        )
        raise EmulatorError(message) from error
    return path


def _refuse_foreign(path: Path) -> None:
    # The library is loaded as code: other users who can write to it or its directory could run their own.
    for place in (path.parent, path):
        try:
            status = place.lstat() if place == path else place.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(status.st_mode):
            reason = "is a symbolic link"
        elif status.st_uid not in (os.getuid(), 0):
            reason = f"belongs to another user (uid {status.st_uid})"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            others = "any user" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
            reason = f"can be written by {others} (mode {stat.S_IMODE(status.st_mode):04o})"
        else:
            continue
        message = (
            f"the emulated HPU is not loaded: {place} {reason}; "
            f"remove that permission (chmod go-w), or set {CACHE_VARIABLE} to a directory that you own"
        )
        raise EmulatorError(message)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build_to(path: Path, pytorch: PyTorch) -> str:
    """Compile the device into the file ``path``, for use elsewhere; return the file's sha256.

    :raises EmulatorError: if it cannot be built or written.
    """
    pytorch.refuse_unserved()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return compile_to(path, pytorch)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise EmulatorError(message) from error


def compile_to(path: Path, pytorch: PyTorch) -> str:
    """Compile the device for ``pytorch``, move it atomically to ``path``, and return the file's sha256."""
    cxx = compiler()
    print("hpu emulator: compiling the device, once for this PyTorch (15 to 40 s)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        target = Path(scratch) / path.name
        include = pytorch.root / "include"
        command = [cxx, f"-std={pytorch.standard}", *FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(pytorch.cxx11_abi)}"]
        # PyTorch's headers count as system headers, so that the compiler hides their warnings.
        command += [f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}"]
        command += [str(SOURCE), "-o", str(target), "-Wl,--no-as-needed", *_stand_ins(cxx, Path(scratch)), "-ldl"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            print(result.stderr[-8000:], file=sys.stderr)
            what = f"the emulated HPU does not compile with {cxx} and PyTorch {pytorch.version}"
            message = f"{what}: {_first_error(result.stderr)}"
            raise EmulatorError(message)
        sha256 = prebuilt.seal(target, Fit.of(pytorch, source_digest()))
        target.chmod(0o755)  # regardless of the umask: a group-writable file is refused
        target.replace(path)
    return sha256


def _stand_ins(cxx: str, scratch: Path) -> list[str]:
    """Build empty libraries to link with instead of PyTorch's, so that only its headers are needed.

    The device is linked to a name; the loader resolves that name to the library PyTorch has already loaded.
    """
    empty = scratch / "empty.cpp"
    empty.write_text("")
    made = []
    for name in LIBRARIES:
        file = scratch / f"lib{name}.so"
        command = [cxx, "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so", str(empty), "-o", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            message = f"{cxx} cannot link a shared library: {_first_error(result.stderr)}"
            raise EmulatorError(message)
        made.append(str(file))
    return made


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it printed nothing"])[0][-600:]
