"""Compiles the device once for each user, PyTorch, machine and source, with the C++ compiler alone."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from .options import EmulatorError

SOURCE = Path(__file__).resolve().parent / "csrc" / "device.cpp"
CACHE_VARIABLE = "HPU_EMULATOR_CACHE"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall")


def sources() -> list[Path]:
    """The C++ files whose content decides the library."""
    return sorted([*SOURCE.parent.glob("*.cpp"), *SOURCE.parent.glob("*.h")])


def cache_directory() -> Path:
    """HPU_EMULATOR_CACHE, else the user's cache directory, else a private one under the temporary directory."""
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
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return os.access(directory, os.W_OK | os.X_OK)


def compiler() -> str:
    """The C++ compiler: $CXX, g++, c++ or clang++.

    :raises EmulatorError: when there is none.
    """
    for candidate in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if candidate and shutil.which(candidate):
            return candidate
    message = (
        "the emulated HPU is compiled on first use and no C++ compiler was found; "
        "install one (Debian and Ubuntu: apt-get install g++) or set CXX"
    )
    raise EmulatorError(message)


def library_path(torch: ModuleType) -> Path:
    """Where the library for this PyTorch belongs, built or not."""
    digest = hashlib.sha256()
    for source in sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    version = getattr(torch.version, "git_version", "")
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    digest.update(repr((torch.__version__, version, abi, platform.machine(), FLAGS)).encode())
    return cache_directory() / f"device-torch{torch.__version__}-{digest.hexdigest()[:16]}.so"


def library(torch: ModuleType) -> Path:
    """The compiled device, built when the cache lacks it.

    :raises EmulatorError: when it cannot be built.
    """
    path = library_path(torch)
    try:
        if path.exists():
            _refuse_foreign(path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign(path)
        with _locked(path.with_suffix(".lock")):
            if not path.exists():
                compile_to(path, torch)
    except OSError as error:
        message = f"cannot build the emulated HPU in {path.parent}: {error}; set {CACHE_VARIABLE} to a folder of yours"
        raise EmulatorError(message) from error
    return path


def _refuse_foreign(path: Path) -> None:
    # The library is loaded as code: whoever else can write to it, or to its directory, would let it run theirs.
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
            f"take that right away (chmod go-w), or set {CACHE_VARIABLE} to a directory of yours"
        )
        raise EmulatorError(message)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def compile_to(path: Path, torch: ModuleType) -> None:
    """Compiles the device for ``torch`` and puts it at ``path`` in one step."""
    cxx = compiler()
    root = Path(str(torch.__file__)).parent
    print("hpu emulator: compiling the device, once for this PyTorch (15 to 40 s)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        target = Path(scratch) / path.name
        command = [cxx, *FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
        # PyTorch's own headers are system headers here: their warnings are not ours to mend.
        command += [f"-isystem{root / 'include'}", f"-isystem{root / 'include/torch/csrc/api/include'}"]
        command += [str(SOURCE), "-o", str(target), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ldl"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            what = f"the emulated HPU does not compile with {cxx} and PyTorch {torch.__version__}"
            message = f"{what}:\n{result.stderr[-4000:]}"
            raise EmulatorError(message)
        target.chmod(0o755)  # whatever the umask: it is refused where a group can write it
        target.replace(path)
