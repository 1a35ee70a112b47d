"""PyTorch's CUDA build, as an index provides it, without most of NVIDIA's libraries: 1.2 GB instead of 6.

All of PyTorch's own files are those of the wheel, so its built-in parts and registrations are those of a CUDA build.
The CUDA runtime, CUPTI and cuFile are NVIDIA's real libraries. The others (cuBLAS, cuDNN, NCCL …) are loaded by
``import torch`` and called by nothing without a GPU: an empty library has the name of each. Calling one ends the
process with a message that names it. ``python -m tests.scripts.torch_builds`` tests the complete build, with NVIDIA's
libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import environments, vllm_pairs
from tests.support.environments import REQUIREMENTS, Environment, EnvironmentUnavailableError

#: A release whose wheel for Linux on an index is a CUDA build, the smallest such wheel.
VERSION = "2.14.1"
LMCACHE = "0.5.6"
_GIGABYTES = 5
_REAL = re.compile(r"lib(cudart|cupti|cufile)\b")
#: Version names of symbols that the system's own libraries define.
_OF_THE_SYSTEM = re.compile(r"@(GLIBC|GCC|GLIBCXX|CXXABI|GOMP|OMP)_")


def private_environment(folder: Path) -> Environment:
    """Return a private environment with LMCache over the CUDA build, which may be changed.

    Raises EnvironmentUnavailableError if it is not available: no network, no room, no compiler.
    """
    base = environments.torch_python()
    version = environments._interpreter(base).version
    prefix = folder / f"cuda-{VERSION}"
    vllm_pairs._make(prefix, base, version, [_layer(base, version)])
    vllm_pairs._install(prefix, ["--no-index", str(environments.wheel(LMCACHE, version))])
    return environments._environment(prefix, version, LMCACHE)


def python_of(version: str) -> Path:
    """Return an interpreter of another Python, such as 3.12, with the CUDA build and LMCache's import dependencies.

    Raises EnvironmentUnavailableError if that Python, or its packages, are not available.
    """
    base = interpreter(version)
    lines = _requirements(version)
    key = environments._digest(str(base).encode(), "\n".join(lines).encode())
    prefix = environments.cache_dir() / "cuda" / f"torch-{VERSION}-py{version}-{key}"
    with environments._made_once(prefix) as missing:
        if missing:
            environments._call([str(base), "-m", "venv", str(prefix)], f"cannot make {prefix}")
            listed = prefix / "requirements.txt"
            listed.write_text("\n".join(lines), encoding="utf-8")
            vllm_pairs._install(prefix, ["--no-compile", "--requirement", str(listed)])
            _install_torch(prefix, version)
            environments._call([str(prefix / "bin" / "python"), "-c", "import torch"], f"cannot make {prefix}")
    return prefix / "bin" / "python"


def interpreter(version: str) -> Path:
    """Return an installed Python of this version.

    Raises EnvironmentUnavailableError if there is none.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [*sorted(root.glob(f"versions/{version}.*/bin")), *map(Path, os.environ["PATH"].split(os.pathsep))]
    for place in places:
        found = place / f"python{version}"
        if found.exists() and "shims" not in place.parts:
            return found
    raise EnvironmentUnavailableError(f"no Python {version} is installed here")


def _requirements(version: str) -> list[str]:
    """Return LMCache's import dependencies except PyTorch; for an older Python, in releases that still support it."""
    own = REQUIREMENTS.with_name(f"requirements-torch-{version}.txt")
    listed: dict[str, str] = {}
    for file in (REQUIREMENTS, own):
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            if "==" in line and not line.startswith("#"):
                listed[line.partition("==")[0].lower()] = line
    return [line for name, line in listed.items() if name != "torch"]


def _layer(base: Path, version: str) -> Path:
    prefix = environments.cache_dir() / "cuda" / f"torch-{VERSION}-{vllm_pairs._key(base, version, b'1')}"
    with environments._made_once(prefix) as missing:
        if missing:
            vllm_pairs._make(prefix, base, version, [])
            _install_torch(prefix, version)
    return vllm_pairs._site_packages(prefix, version)


def _install_torch(prefix: Path, version: str) -> None:
    if (free := shutil.disk_usage(prefix).free / 1e9) < _GIGABYTES:
        raise EnvironmentUnavailableError(f"{free:.1f} GB free for a CUDA build, {_GIGABYTES} are needed")
    site_packages = vllm_pairs._site_packages(prefix, version)
    vllm_pairs._install(prefix, ["--no-cache-dir", "--no-compile", f"torch=={VERSION}"])
    # The wheel's NVIDIA requirements in the versions that it names; its other requirements are not followed.
    toolkit = _requirement(site_packages, "cuda-toolkit")
    pip = [*environments._pip(), "--python", str(prefix / "bin" / "python"), "install", "--quiet", "--no-cache-dir"]
    environments._call([*pip, f"cuda-toolkit[cudart,cupti,cufile]{toolkit}"], "cannot install NVIDIA's runtime")
    _stand_in(site_packages)


def _requirement(site_packages: Path, name: str) -> str:
    text = (site_packages / f"torch-{VERSION}.dist-info" / "METADATA").read_text(encoding="utf-8")
    found = re.search(rf"^Requires-Dist: {name}(?:\[[\w,]*\])?(==[\w.]+)", text, re.MULTILINE)
    if found is None:
        raise EnvironmentUnavailableError(f"torch {VERSION} from this index is no CUDA build: it wants no {name}")
    return found[1]


def _stand_in(site_packages: Path) -> None:
    """Create an empty library for each missing one that PyTorch's own libraries are linked with."""
    own = site_packages / "torch" / "lib"
    libraries = [file for file in sorted(own.glob("*.so*")) if file.is_file()]
    needed = {name for file in libraries for name in _needed(file)}
    there = {file.name for file in site_packages.rglob("*.so*")}
    named = re.compile(r"lib(cu|nccl|nv)")
    missing = sorted(name for name in needed - there if named.match(name) and name != "libcuda.so.1")
    if not missing or any(map(_REAL.match, missing)):
        raise EnvironmentUnavailableError(f"PyTorch's libraries have changed: of NVIDIA's, {missing} are missing")
    # Functions are looked up at their first call, but symbols whose address is taken must exist at load.
    defined = {
        name for file in site_packages.rglob("*.so*") if file.is_file() for name in _symbols(file, "--defined-only")
    }
    wanted = {name for file in libraries for name in _symbols(file, "--undefined-only")}
    names = sorted(name for name in wanted - defined if re.fullmatch(r"(cu|nccl|nvrtc|nvshmem)\w+", name))
    lines = ["#include <stdio.h>", "#include <stdlib.h>"]
    for name in names:
        lines.append(f'void {name}(void) {{ fputs("{name}: NVIDIA\'s library is a stand-in\\n", stderr); abort(); }}')
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "stand_in.c"
        for number, name in enumerate(missing):
            source.write_text("\n".join(lines if not number else []) + "\n", encoding="utf-8")
            target = own / name
            command = ["g++", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(target)]
            environments._call(command, f"cannot make a stand-in for {name}")


def _needed(file: Path) -> list[str]:
    text = environments._call(["readelf", "-dW", str(file)], f"cannot read {file}")
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", text)


def _symbols(file: Path, which: str) -> list[str]:
    done = subprocess.run(["nm", "-D", which, "--format=posix", str(file)], capture_output=True, text=True, check=False)
    words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    return [word.partition("@")[0] for word in words if not _OF_THE_SYSTEM.search(word)]
