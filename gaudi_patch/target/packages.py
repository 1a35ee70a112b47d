"""Versions of what LMCache runs with in the target: the interpreter's, and packages by their metadata.

Nothing of the target is imported: `import torch` costs seconds, and a CUDA build may fail on a Gaudi host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.target.locate import Installation

#: Distributions, as PyPI and Habana's images name them, that decide how LMCache behaves on a Gaudi.
PACKAGES = (
    "torch",
    "vllm",
    "vllm-gaudi",
    "habana-torch-plugin",
    "habana-pyhlml",
    "transformers",
    "numpy",
)

_TIMEOUT = 60.0


def packages(installation: Installation, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """The version of each of PACKAGES that a run of the target would import; None where it is not installed."""
    return versions(_folders(installation, environ))


def versions(folders: list[str]) -> dict[str, str | None]:
    """The version of each of PACKAGES in ``folders``, the first that has it."""
    from importlib import metadata

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        first = next(iter(metadata.distributions(name=name, path=folders)), None)
        found[name] = (first.version or None) if first is not None else None
    return found


def _folders(installation: Installation, environ: Mapping[str, str]) -> list[str]:
    """sys.path of the target; for an image that cannot be run, the folder of LMCache alone."""
    if installation.python is None:
        beside = installation.dist_info or installation.root / installation.package
        return [str(beside.parent)]
    from gaudi_patch.target.interpreter import identify

    return list(identify(str(installation.python), installation.package, environ).path)


def python_version(python: Path) -> str | None:
    """The full version of an interpreter; None where it cannot be run."""
    from gaudi_patch.target.ask import AskError, ask

    try:
        answer = ask(python, "version.py", timeout=_TIMEOUT, environ=os.environ, flags=("-I", "-S", "-B"))
    except AskError:
        return None
    return answer if isinstance(answer, str) and re.fullmatch(r"\d{1,3}(\.\d{1,3}){2}", answer, re.ASCII) else None
