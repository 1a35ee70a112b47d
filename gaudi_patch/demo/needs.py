"""Check the demo's requirements before anything is created or downloaded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from gaudi_patch.demo.setup import OLDEST_WITH_VLLM, VLLM
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import say
from gaudi_patch.series.manifest import Kind, Manifest
from gaudi_patch.sizing.plan import GIB
from gaudi_patch.smoke.levels import DEVICE_VARIABLE

#: Bytes of the environment with LMCache; with PyTorch for the CPU and LMCache's imports too; with vLLM too.
ROOM = {"lmcache": GIB // 4, "torch": 3 * GIB, "vllm": 4 * GIB}
#: Extra bytes for NVIDIA's packages, downloaded and unpacked by pip, if PyTorch is a CUDA build.
CUDA = 8 * GIB
#: The compilers that the emulated HPU looks for (emulator/build.py).
COMPILERS = ("g++", "c++", "clang++")
#: The emulated HPU refuses older releases, and builds with these labels (emulator/pytorch.py).
OLDEST_TORCH = "2.7"
UNSERVED_BUILDS = ("xpu", "rocm")
_SECONDS = 120.0

Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def release(manifest: Manifest, version: str, *, vllm: bool) -> str:
    """Return the release to show: ``version``, or the newest with a series.

    Raises an error if it has no series, or is incompatible with the demo's vLLM.
    """
    if not version:
        return max((series.versions.removeprefix("==") for series in manifest.series), key=Version)
    verdict = manifest.named(version)
    if verdict.kind is not Kind.SERIES:
        nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
        why = verdict.reason or f"the manifest has no series for it{nearest}"
        hint = "see `gaudi-patch list` for the releases that have one"
        kind = verdict.kind.value
        raise GaudiPatchError(
            Exit.NOT_FOUND, f"{kind}-version", f"LMCache {version}: {why}; nothing was installed", hint
        )
    if vllm:
        refuse_older(version)
    return version


def refuse_older(version: str) -> None:
    """Raise an error if the release is incompatible with the demo's vLLM."""
    try:
        too_old = Version(version) < Version(OLDEST_WITH_VLLM)
    except InvalidVersion:
        return
    if too_old:
        raise GaudiPatchError(
            Exit.USAGE,
            "demo-vllm",
            f"LMCache {version} does not work with the demo's {VLLM}; nothing was installed",
            f"use --version {OLDEST_WITH_VLLM} or later, or leave out --full",
        )


def refuse_unserved(torch: str) -> None:
    """Raise an error if no PyTorch that satisfies the requirement ``torch`` supports the emulated HPU.

    A requirement other than a name and versions (a URL, a file) is left to pip and the emulator.
    """
    try:
        specifier = Requirement(torch).specifier
    except InvalidRequirement:
        return
    bounds = [Version(clause.version.removesuffix(".*")) for clause in specifier if clause.operator != "==="]
    if bad := next((bound for bound in bounds if bound.local and bound.local.startswith(UNSERVED_BUILDS)), None):
        why = f"{bad} has built-in support for a GPU, which conflicts with the emulated HPU"
    elif not any(specifier.contains(version, prereleases=True) for version in _from(OLDEST_TORCH, bounds)):
        why = f"the emulated HPU needs PyTorch {OLDEST_TORCH} or later"
    else:
        return
    raise GaudiPatchError(
        Exit.USAGE,
        "demo-torch",
        f"--torch {torch!r} cannot be used: {why}; nothing was installed",
        "leave out --torch, or use a build for the CPU or for CUDA",
    )


def _from(oldest: str, bounds: list[Version]) -> list[Version]:
    """Return sample versions from ``oldest`` on: a specifier with these bounds admits one of them, if any at all."""
    edges = [bound for bound in bounds if bound >= Version(oldest)]
    after = [Version(f"{bound.public}.1") for bound in edges if not (bound.is_prerelease or bound.is_postrelease)]
    return [Version(oldest), Version(f"{oldest}.1"), Version("9999"), *edges, *after]


def missing(
    package: str,
    version: str,
    folder: Path | None,
    *,
    torch: bool,
    vllm: bool,
    environ: Mapping[str, str] = os.environ,
    run: Run | None = None,
) -> list[str]:
    """Return what is missing, each as a sentence with a remedy: a compiler, disk space, pip, the release itself.

    ``folder``: the directory for the environment, None for the temporary directory.
    """
    lacks = []
    if torch and not environ.get(DEVICE_VARIABLE) and not compiler(environ):
        lacks.append(
            "no C++ compiler, which builds the emulated HPU: install g++ (apt-get install g++; dnf install gcc-c++), "
            f"set CXX or {DEVICE_VARIABLE}, or skip the smoke checks with --no-smoke"
        )
    room, free = ROOM["vllm" if vllm else "torch" if torch else "lmcache"], free_space(folder)
    if free < room:
        where = folder or Path(tempfile.gettempdir())
        other = "use another --keep DIR" if folder else "set TMPDIR, or use --keep DIR, on a larger file system"
        lacks.append(f"{where} has {free / GIB:.1f} GiB free, but needs {room / GIB:.2g} GiB: {other}")
    if problem := unavailable(package, version, run or _run):
        lacks.append(problem)
    return lacks


def refuse(lacks: list[str]) -> None:
    """Raise one error for everything missing."""
    if lacks:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "demo-needs",
            f"the demo cannot run here; nothing was installed: {lacks[0].partition(':')[0]}",
            "see the details above, then run the same command again",
            details=lacks,
        )


def refuse_cuda_without_room(nvidia: Sequence[str], folder: Path) -> None:
    """Report a CUDA build of PyTorch, which requires the packages ``nvidia``; raise an error if they lack disk space.

    A CPU build requires none. Which build the index provides is known only after PyTorch has been downloaded.
    """
    if not nvidia:
        return
    cpu = "point PIP_EXTRA_INDEX_URL at PyTorch's CPU index"
    free = free_space(folder)
    if free >= CUDA:
        say(f"  pip's index gives PyTorch as a CUDA build: {len(nvidia)} NVIDIA packages come with it")
        say(f"  no GPU is used; for a build without them, {cpu}")
        return
    raise GaudiPatchError(
        Exit.ENVIRONMENT,
        "demo-cuda",
        f"pip's index gives PyTorch as a CUDA build, and NVIDIA's packages need {CUDA / GIB:.2g} GiB: {folder} has "
        f"{free / GIB:.1f} GiB free",
        f"{cpu} for a build without them, or use another --keep DIR (or TMPDIR) on a larger file system",
    )


def compiler(environ: Mapping[str, str]) -> str:
    """Return the C++ compiler that would build the emulated HPU, "" for none."""
    names = (environ.get("CXX"), *COMPILERS)
    return next((name for name in names if name and shutil.which(name, path=environ.get("PATH"))), "")


def free_space(folder: Path | None) -> int:
    """Return the free bytes on the file system of ``folder``, which need not exist yet."""
    path = (folder or Path(tempfile.gettempdir())).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def unavailable(package: str, version: str, run: Run) -> str:
    """Return why pip cannot get the release, "" if it can or only a download would tell."""
    done = run([sys.executable, "-m", "pip", "index", "versions", "--pre", package])
    if done.returncode == 0:
        listed = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
        versions = [word.strip() for word in listed[1].split(",")] if listed else [version]
        if _is_among(version, versions):
            return ""
        python = ".".join(map(str, sys.version_info[:2]))
        return f"pip finds no {package} {version} for Python {python}: its newest is {versions[0]}"
    last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
    if "No module named pip" in last:
        return f"{sys.executable} has no pip: {sys.executable} -m ensurepip"
    if "unknown command" in last or "No matching distribution" not in last:
        return ""  # an older pip; the installation will tell
    return f"pip finds no {package}: check the network and pip's configuration (PIP_INDEX_URL, PIP_CERT)"


def _is_among(version: str, listed: Sequence[str]) -> bool:
    """Return whether a release is listed, in any PEP 440 spelling: v0.5.6 is 0.5.6, 1.0rc1 is 1.0.RC1."""
    try:
        wanted = Version(version)
    except InvalidVersion:
        return version in listed
    for known in listed:
        with contextlib.suppress(InvalidVersion):
            if Version(known) == wanted:
                return True
    return False


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"ERROR: No matching distribution found in {_SECONDS:.0f} s"
        return subprocess.CompletedProcess(command, 1, "", text)
