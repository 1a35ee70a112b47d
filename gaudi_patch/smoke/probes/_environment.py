"""Report what the target environment has installed: LMCache, its patch, and the dependencies that it declares.

Read from metadata and files alone: nothing is imported. Used by the probes; imports nothing from gaudi_patch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from pathlib import Path

# Imported by LMCache under a name unrelated to the distribution's name.
_DISTRIBUTIONS = {
    "cpuinfo": "py-cpuinfo",
    "google": "protobuf",
    "grpc": "grpcio",
    "opentelemetry": "opentelemetry-api",
    "prometheus_client": "prometheus-client",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
# Declared, but imported by nothing of LMCache; BUILD_ONLY of gaudi_patch/target/requirements.py.
BUILD_ONLY = frozenset({"pytest", "setuptools", "setuptools-scm"})
# Libraries that exist only for CUDA. LMCache declares some of them; a Gaudi host has none.
_CUDA_DISTRIBUTION = re.compile(r"(^|-)(cuda|cufile|cupy|nixl|nvidia|pynvml)(\d|-|$)|-cu(da)?\d")
CUDA_LIBRARIES = ("cuda", "cufile", "cupy", "cupy_backends", "nixl", "nixl_cu12", "nixl_cu13", "pynvml")


def installed(name: str) -> bool:
    """Return whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def lmcache_version() -> str:
    """Return the installed release, from its metadata."""
    try:
        return importlib.metadata.version("lmcache")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"


def is_patched() -> bool:
    """Return whether the installed LMCache has the HPU runtime that the patches add."""
    try:
        return importlib.util.find_spec("lmcache") is not None and any(
            (Path(folder) / "gaudi" / "__init__.py").is_file()
            for folder in importlib.util.find_spec("lmcache").submodule_search_locations or ()  # type: ignore[union-attr]
        )
    except (ImportError, ValueError):
        return False


def advice() -> str:
    """Return what to do about a failure, if known."""
    if is_patched():
        return ""
    apply = f"gaudi-patch apply --python {shlex.quote(sys.executable)}"
    return f"LMCache {lmcache_version()} is not patched for HPU (it has no lmcache.gaudi): run `{apply}`"


def missing_dependency(error: BaseException) -> str:
    """Return the missing dependency of LMCache that caused ``error``; "" for another cause.

    Only what LMCache's metadata declares counts: any other missing module is a fault of the code.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, ModuleNotFoundError) and current.name:
            top = current.name.partition(".")[0]
            if top in _declared() and top not in CUDA_LIBRARIES and not installed(top):
                return top
        current = current.__cause__ or current.__context__
    return ""


def not_installed(module: str) -> str:
    """Return a message naming a missing dependency and all others: one at a time would take a build for each."""
    text = f"LMCache's dependency {module!r} is not installed"
    others = [name for name in _missing_distributions() if _normal(_DISTRIBUTIONS.get(module, module)) != name]
    if others:
        text += f"; also missing: {', '.join(others)}"
    asked = f"gaudi-patch requirements {lmcache_version()} --python {shlex.quote(sys.executable)}"
    install = f"{shlex.quote(sys.executable)} -m pip install -r <({asked}) -c <({asked} --constraints)"
    return f"{text}; install everything that is missing, and change nothing else: {install}"


def _missing_distributions() -> list[str]:
    """Return what LMCache's metadata declares and is not installed, without CUDA and build packages."""
    missing = []
    for name in sorted(_requirements()):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in BUILD_ONLY and not _CUDA_DISTRIBUTION.search(name):
                missing.append(name)
    return missing


def _requirements() -> set[str]:
    """Return the normalised names that LMCache's metadata declares, without extras."""
    try:
        lines = importlib.metadata.requires("lmcache") or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {
        _normal(re.split(r"[\s\[(<>=!~;]", line, maxsplit=1)[0])
        for line in lines
        if not re.search(r"\bextra\s*==", line.partition(";")[2])
    }


def _declared() -> set[str]:
    names = _requirements()
    return {name.replace("-", "_") for name in names} | {
        module for module, distribution in _DISTRIBUTIONS.items() if _normal(distribution) in names
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
