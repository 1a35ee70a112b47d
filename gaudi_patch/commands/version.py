"""`--version`: every version that matters in a bug report."""

from __future__ import annotations

import platform
import sys

from gaudi_patch import __version__


def version_text() -> str:
    """gaudi-patch, Python, its dependencies, and the platform, one a line."""
    from importlib import metadata

    lines = [f"gaudi-patch {__version__}", f"python {platform.python_version()} ({sys.executable})"]
    for name in ("typer", "rich", "unidiff", "packaging", "gitpython"):
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines.append(f"{platform.system()} {platform.release()} {platform.machine()}")
    return "\n".join(lines)
