"""The packages in the target: names, versions and requirements, read from its directories without imports."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.reading import read_bytes
from gaudi_patch.target.packages import Package, find
from gaudi_patch.target.search import Search, Target, search_default, search_folder, search_image
from gaudi_patch.target.site_folder import normalised


@dataclass(frozen=True)
class Installed:
    """The packages of a target by normalised name; the first on the path counts.

    ``python`` is None if no interpreter is known or may be run. ``problem`` says why the target cannot be examined;
    there are no packages then.
    """

    python: Path | None = None
    how: str = ""
    packages: Mapping[str, Package] = field(default_factory=dict)
    torch: Path | None = None
    problem: str = ""
    hint: str = ""

    def requirements(self, package: str, of: str) -> list[str]:
        """Return what ``package`` requires of the distribution ``of``, without extras: ``["transformers>=5.4"]``."""
        if package not in self.packages:
            return []
        text = self.packages[package].text("METADATA", "PKG-INFO")
        if text is not None:
            requirements = re.findall(
                r"^Requires-Dist: *([\w.-]+)([^;\n]*)(;?.*)$", text.split("\n\n")[0], re.MULTILINE
            )
            return [
                f"{name}{spec.strip()}" for name, spec, marker in requirements if normalised(name) == of and not marker
            ]
        return []

    def entry_points(self, package: str, group: str) -> list[str]:
        """Return the names that a distribution registers in an entry point group."""
        if package not in self.packages:
            return []
        text = self.packages[package].text("entry_points.txt")
        if text is None:
            return []
        section = re.search(rf"^\[{re.escape(group)}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        return re.findall(r"^([^=\s]+) *=", section[1], re.MULTILINE) if section else []

    def torch_cuda(self) -> str | None:
        """Return the CUDA version that PyTorch was built for, "" for none; None if it cannot be read."""
        if self.torch is None:
            return None
        try:
            text = read_bytes(self.torch / "version.py").decode("utf-8", "replace")
        except OSError:
            return None
        match = re.search(r"^cuda\b[^=\n]*= *(None|['\"]([^'\"]*)['\"])", text, re.MULTILINE)
        return None if match is None else match[2] or ""


def look(target: Target, environ: Mapping[str, str], package: str) -> Installed:
    """Read the packages of a target; raise a usage error for a wrong --python, --path or --root."""
    try:
        search = _search(target, environ, package)
    except GaudiPatchError as error:
        if error.exit is Exit.USAGE:
            raise
        return Installed(problem=error.message, hint=error.hint)
    folders = [folder.path for folder in search.folders]
    places = (os.path.join(folder, "torch") for folder in folders)  # noqa: PTH118 - entries of sys.path are strings
    # Only for reports: a PyTorch that cannot be seen counts as missing, and no write depends on that.
    torch = next((Path(search.resolve(place)) for place in places if os.path.lexists(place)), None)
    python = search.interpreter.executable if search.interpreter else None
    return Installed(python, search.how, find(folders, search.resolve), torch)


def _search(target: Target, environ: Mapping[str, str], package: str) -> Search:
    if target.root is not None:
        return search_image(target.root, package)
    if target.path is not None:
        return search_folder(target.path, package, environ)
    return search_default(target.python, package, environ)
