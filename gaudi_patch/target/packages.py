"""Versions of the software around LMCache in the target: the interpreter, and packages by their metadata.

Nothing from the target is imported: `import torch` costs seconds, and a CUDA build may fail on a Gaudi host.
"""

# ruff: noqa: PTH118, PTH208
# Why: entries of sys.path are strings.

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gaudi_patch.reading import read_bytes
from gaudi_patch.target.site_folder import Resolve, headers, normalised

if TYPE_CHECKING:
    from gaudi_patch.target.installation import Installation

#: Distributions, named as on PyPI and in Habana's images, that affect LMCache on a Gaudi.
PACKAGES = (
    "torch",
    "vllm",
    "vllm-gaudi",
    "habana-torch-plugin",
    "habana-pyhlml",
    "transformers",
    "numpy",
)

#: numpy-1.26.4.dist-info, and the older habana_media_loader-1.19.0-py3.10.egg-info
_METADATA = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py\d\.\d+)?\.(dist|egg)-info")
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Package:
    """An installed distribution: the directory of its metadata, and the version in that directory's name.

    ``resolve`` follows links as inside the target.
    """

    path: str
    named: str
    resolve: Resolve = os.path.realpath

    @property
    def version(self) -> str:
        """Return the version in the metadata, else the one in the directory's name."""
        try:
            return (headers(os.path.join(self.path, "METADATA"), self.resolve) or {}).get("version") or self.named
        except OSError:
            return self.named

    def text(self, *names: str) -> str | None:
        """Return the text of the first existing metadata file among ``names``, with undecodable bytes replaced."""
        for name in names:
            try:
                return read_bytes(self.resolve(os.path.join(self.path, name))).decode("utf-8", "replace")
            except OSError:
                continue
        return None


def packages(installation: Installation, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the version of each of PACKAGES that a run of the target would import; None if not installed."""
    there = find(_folders(installation, environ))
    return {name: there[name].version if name in there else None for name in PACKAGES}


def find(folders: Sequence[str], resolve: Resolve = os.path.realpath) -> dict[str, Package]:
    """Return the first distribution of each normalised name in ``folders``; skip unreadable directories."""
    packages: dict[str, Package] = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(resolve(folder)))
        except OSError:  # a zip file, or missing: import skips it too
            continue
        for name in names:
            if match := _METADATA.fullmatch(name):
                packages.setdefault(
                    normalised(match["name"]), Package(os.path.join(folder, name), match["version"], resolve)
                )
    return packages


def _folders(installation: Installation, environ: Mapping[str, str]) -> list[str]:
    """Return the target's sys.path; for an image that cannot run, only LMCache's directory."""
    if installation.python is None:
        beside = installation.dist_info or installation.root / installation.package
        return [str(beside.parent)]
    from gaudi_patch.target.interpreter import identify

    return list(identify(str(installation.python), installation.package, environ).path)


def python_version(python: Path) -> str | None:
    """Return the full version of an interpreter; None if it cannot run."""
    from gaudi_patch.target.ask import AskError, ask

    try:
        answer = ask(python, "version.py", timeout=_TIMEOUT, environ=os.environ, flags=("-I", "-S", "-B"))
    except AskError:
        return None
    return answer if isinstance(answer, str) and re.fullmatch(r"\d{1,3}(\.\d{1,3}){2}", answer, re.ASCII) else None
