"""The manifest, loaded from the lock: which series of patches belongs to which version.

``manifest.lock`` is the compiled manifest, and the only file of it read at run time. `authoring` generates it from
``manifest.toml``, the patches and the wheels. This module does not know about installations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.disk import sha256
from gaudi_patch.errors import Exit, GaudiPatchError, bad_manifest
from gaudi_patch.series import lock, versions
from gaudi_patch.series.model import Capability, Kind, LockedFile, Pair, Patch, Rule, Series, Verdict

if TYPE_CHECKING:
    from packaging.version import Version

__all__ = ["Capability", "Kind", "LockedFile", "Manifest", "Pair", "Patch", "Rule", "Series", "Verdict", "load"]


class Manifest(NamedTuple):
    """The manifest below ``directory``."""

    directory: Path
    package: str
    series: tuple[Series, ...]
    patches: Mapping[str, Patch]
    capabilities: Mapping[str, Capability]
    refused: tuple[Rule, ...]
    upstream: tuple[Rule, ...]
    pairs: tuple[Pair, ...]

    def verdict(self, version: str) -> Verdict:
        """Match ``version`` against the manifest; at most one series can match.

        Raises ``bad-manifest`` if two series claim the version.
        """
        matching = [series for series in self.series if versions.matches(series.versions, version)]
        if len(matching) > 1:
            names = " and ".join(series.id for series in matching)
            raise bad_manifest(f"version {version} is claimed by two series: {names}", str(self.file))
        if matching:
            return Verdict(Kind.SERIES, version, matching[0])
        for rule in self.refused:
            if versions.matches(rule.versions, version):
                return Verdict(Kind.REFUSED, version, None, rule.reason, rule.advice, self.nearest(version))
        for rule in self.upstream:
            if versions.matches(rule.versions, version):
                return Verdict(Kind.UPSTREAM, version, None, rule.reason, rule.advice)
        return Verdict(Kind.UNKNOWN, version, nearest=self.nearest(version))

    def nearest(self, version: str) -> Series | None:
        """Return the series of the closest release: the newest not above ``version``, else the oldest above."""
        parsed = versions.parse(version)
        if parsed is None:
            return self.series[-1] if self.series else None
        known = sorted(
            ((number, series) for series in self.series if (number := newest_release(series))), key=lambda pair: pair[0]
        )
        below = [series for number, series in known if number <= parsed]
        return below[-1] if below else known[0][1] if known else None

    def named(self, version: str) -> Verdict:
        """Match a version that somebody typed. One that leaves numbers out ("0.5") is not taken for that of 0.5.0.

        Raises ``unknown-version`` (exit 3) for it, with the releases that it may stand for.
        """
        begins = f"{version.lstrip('v')}."
        meant = [series for series in self.series if str(newest_release(series)).startswith(begins)]
        if meant and version.count(".") < 2 and self.by_id(version) is None:
            from gaudi_patch.series import coverage

            every = len(meant) == len(self.series)
            which = coverage.span(meant) if every else coverage.words(self.series, meant.__contains__)
            what = f"LMCache {version} is not a full version; it may be {which}"
            raise GaudiPatchError(Exit.NOT_FOUND, "unknown-version", what, f"give one in full, such as {meant[0].id}")
        return self.verdict(version)

    def by_id(self, name: str) -> Series | None:
        """Return the series with this id; None if there is none."""
        return next((series for series in self.series if series.id == name), None)

    @property
    def file(self) -> Path:
        """Return the file to name in errors about the manifest: the source if it exists, else the lock."""
        source = self.directory / lock.SOURCE
        return source if source.is_file() else self.directory / lock.NAME

    def locked_files(self, series: Series) -> dict[str, LockedFile]:
        """Return the paths (relative to site-packages) that ``series`` touches, with their hashes."""
        return dict(series.files)

    def patch_bytes(self, name: str) -> bytes:
        """Read a patch and compare it with the lock; a converted or edited patch is refused."""
        data = self.read_patch(name)
        if sha256(data) != self.patches[name].sha256:
            hint = lock.renew_hint(self.directory)
            if self.patches[name].built_in:
                hint = f"gaudi-patch now has a different one: {hint.removeprefix('maintainers: ')}"
            if data and all(line.endswith(b"\r") for line in data.split(b"\n")[:-1]):
                hint = "the file has CRLF line ends: a checkout converted it; mark `*.patch -text` in .gitattributes"
            raise bad_manifest("differs from the sha256 in manifest.lock", str(self.folder(name) / name), hint=hint)
        return data

    def read_patch(self, name: str) -> bytes:
        """Read a patch without comparing it with the lock."""
        from gaudi_patch.series import patch_files  # most runs compare hashes alone, and need no diff

        return patch_files.read(self.folder(name), name)

    def folder(self, name: str) -> Path:
        """Return the patch's directory: gaudi-patch's own for a built-in patch in a site's manifest."""
        return default_directory() if self.patches[name].built_in else self.directory


def newest_release(series: Series) -> Version | None:
    """Return the newest release that the specifier of ``series`` names."""
    return versions.newest(series.versions)


def default_directory() -> Path:
    """Return the directory of the patches: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for candidate in (here / lock.SHIPPED, here.parent / "patches"):
        if (candidate / lock.NAME).is_file() or (candidate / lock.SOURCE).is_file():
            return candidate
    raise bad_manifest("no patches/manifest.lock was found beside gaudi-patch; reinstall it", str(here))


def load(directory: Path | None = None) -> Manifest:
    """Read manifest.lock below ``directory``, which is the built-in one by default.

    Raises ``bad-manifest`` if the lock is missing, damaged, or older than the manifest.toml beside it.
    """
    directory = directory or default_directory()
    read = lock.load(directory)
    return Manifest(
        directory, read.package, read.series, read.patches, read.capabilities, read.refused, read.upstream, read.pairs
    )
