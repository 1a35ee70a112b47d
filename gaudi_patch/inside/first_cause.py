"""Run by answer.py and by the smoke checks' probes: find the first cause of a misleading failure of LMCache.

LMCache catches errors while it looks for its device and its compiled extensions, logs a warning and continues without
them. Later it fails many times with "cannot import name 'device_ops'". Imports nothing of gaudi_patch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Extensions for CUDA only; on a Gaudi host they are expected not to load.
CUDA_EXTENSIONS = ("c_ops", "cuda_ops")
# Modules whose import errors LMCache swallows: the HPU's device, and a device's operators.
_SWALLOWING = ("lmcache.v1.platform.devices.hpu", "lmcache.v1.platform.devices.hpu.device_ops")


@dataclass(frozen=True)
class Cause:
    """A cause in one line, the advice if known, and the exception it was found from."""

    what: str
    advice: str
    error: BaseException

    @property
    def text(self) -> str:
        """Return cause and advice in one line."""
        return f"{self.what}; {self.advice}" if self.advice else self.what


def answer() -> dict[str, str]:
    """Return the cause, the advice, and the missing module if that is the cause; all "" for no cause."""
    cause = swallowed()
    if cause is None:
        return {"what": "", "advice": "", "missing": ""}
    missing = cause.error.name if isinstance(cause.error, ModuleNotFoundError) else ""
    return {"what": " ".join(cause.what.split())[:2000], "advice": cause.advice, "missing": missing or ""}


def swallowed() -> Cause | None:
    """Return why an extension of LMCache does not load, or what its device lacks; None if there is no such cause."""
    try:  # the extensions need PyTorch's libraries, which they do not bring along
        importlib.import_module("torch")
    except ImportError as error:
        return Cause(f"PyTorch cannot be imported: {error}", "install the PyTorch of this image again", error)
    for name in _extensions():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            return Cause(f"{name} does not load: {error}", _advice(str(error)), error)
        except Exception as error:  # an ImportError of the loader, or any error of the extension's own start-up
            return Cause(f"LMCache's extension {name} does not load: {error}", _advice(str(error)), error)
    for name in _SWALLOWING:
        try:
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("lmcache"):
                continue  # this release has no such module
            return Cause(f"{name} cannot be imported: {error}, an error that LMCache hid", _advice(str(error)), error)
        except Exception as error:  # LMCache swallows any error
            return Cause(f"{name} cannot be imported: {error}, an error that LMCache hid", _advice(str(error)), error)
    return None


def _extensions() -> Iterator[str]:
    try:
        spec = importlib.util.find_spec("lmcache")
    except (ImportError, ValueError):
        return
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.so")):
            stem = file.name.partition(".")[0]
            if stem not in CUDA_EXTENSIONS:
                yield f"lmcache.{stem}"


def _advice(message: str) -> str:
    release, version = "VERSION", "this release of LMCache"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        release = importlib.metadata.version("lmcache")
        version = f"LMCache {release}"
    if re.search(r"GLIBC_\d", message):
        return f"{version} was built for a newer C library than this image has: use a newer base image"
    if "undefined symbol" in message and re.search(r"_Z\w*(c10|2at|5torch)", message):
        return f"{version} was built for another PyTorch: use the release that fits this one (`gaudi-patch list`)"
    if "GLIBCXX" in message or "CXXABI" in message or "undefined symbol: _ZN" in message:
        return (
            f"{version} was built for a newer libstdc++ than this image has: use an image with the one of GCC 13 or "
            f"later "
            "(Ubuntu 24.04, Debian 13), or a release of LMCache that loads here"
        )
    if "No module named" in message:
        asked = f"gaudi-patch requirements {shlex.quote(release)} --python {shlex.quote(sys.executable)}"
        return f"install what LMCache requires: `{asked}` lists it"
    if "cannot open shared object file" in message:
        return "install the library that it names"
    return f"reinstall {version}"
