"""Run by answer.py: list this interpreter's distributions and the values of its environment markers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys


def answer() -> dict[str, object]:
    """Return each distribution's version (the first on ``sys.path``), LMCache's requirements and the markers."""
    versions: dict[str, str] = {}
    requires: list[str] | None = None
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if not isinstance(name, str) or not isinstance(version, str) or name in versions:
            continue
        versions[name] = version
        if name == "lmcache":
            requires = distribution.requires or []
    return {
        "versions": versions,
        "requires": requires,
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": platform.python_version(),
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": platform.python_version(),
            "python_version": ".".join(platform.python_version_tuple()[:2]),
            "sys_platform": sys.platform,
        },
    }
