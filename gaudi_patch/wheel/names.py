"""The name of a patched wheel or sdist: the release plus a local version, which installers treat as newer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError

#: NAME-VERSION(-BUILD)?-PYTHON-ABI-PLATFORM.whl
_FILE = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+)(-(?P<build>[0-9][A-Za-z0-9_.]*))?"
    r"-(?P<tags>[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+)\.whl"
)
_SDIST = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+)\.tar\.gz")


class WheelName(NamedTuple):
    """The parts of a wheel's file name. ``tags``: Python, ABI and platform."""

    name: str
    version: str
    build: str
    tags: str

    @classmethod
    def of(cls, file: Path) -> WheelName:
        """Return the parts of ``file``'s name. Raises ``not-a-wheel`` (exit 2)."""
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise GaudiPatchError(
                Exit.USAGE,
                "not-a-wheel",
                "is not the file name of a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl); nothing was written",
                "give a release (0.5.6), or a file with its name on the index",
                str(file),
            )
        return cls(match["name"], match["version"], match["build"] or "", match["tags"])

    def patched(self, build: int) -> WheelName:
        """Return the name with the local version ``+gaudi.BUILD``. Raises ``local-version`` (exit 1)."""
        return self._replace(version=_patched(self.name, self.version, build))

    @property
    def file(self) -> str:
        """Return the file name."""
        build = f"-{self.build}" if self.build else ""
        return f"{self.name}-{self.version}{build}-{self.tags}.whl"

    @property
    def dist_info(self) -> str:
        """Return the name of the metadata directory."""
        return f"{self.name}-{self.version}.dist-info"

    @property
    def data(self) -> str:
        """Return the name of the directory for scripts and headers; few wheels have it."""
        return f"{self.name}-{self.version}.data"


class SdistName(NamedTuple):
    """The parts of an sdist's file name."""

    name: str
    version: str

    @classmethod
    def of(cls, file: Path) -> SdistName:
        """Return the parts of ``file``'s name. Raises ``not-a-wheel`` (exit 2)."""
        match = _SDIST.fullmatch(file.name)
        if match is None:
            raise GaudiPatchError(
                Exit.USAGE,
                "not-a-wheel",
                "is not the file name of an sdist (NAME-VERSION.tar.gz); nothing was written",
                "give the file with its name on the index",
                str(file),
            )
        return cls(match["name"], match["version"])

    def patched(self, build: int) -> SdistName:
        """Return the name with the local version ``+gaudi.BUILD``. Raises ``local-version`` (exit 1)."""
        return self._replace(version=_patched(self.name, self.version, build))

    @property
    def file(self) -> str:
        """Return the file name."""
        return f"{self.root}.tar.gz"

    @property
    def root(self) -> str:
        """Return the name of the top directory."""
        return f"{self.name}-{self.version}"


def _patched(name: str, version: str, build: int) -> str:
    if "+" in version:
        raise GaudiPatchError(
            Exit.REFUSED,
            "local-version",
            f"{name} {version} is already a modified build; nothing was written",
            "use the file of the release itself",
        )
    return f"{version}+gaudi.{build}"
