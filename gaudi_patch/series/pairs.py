"""The manifest's pairs: which releases of vllm-gaudi, and so of vLLM, work with an LMCache release.

vllm-gaudi X.Y.Z, its candidates and its post releases are made for vLLM X.Y.Z (vllm-gaudi:
.github/workflows/create-release-branch.yaml uses the vLLM tag of the same name).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gaudi_patch.series.model import Pair

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.version import Version

    from gaudi_patch.series.manifest import Manifest


def holds(pair: Pair, vllm_gaudi: Version) -> bool:
    """Return whether ``vllm_gaudi`` belongs to the pair; a post release counts as its release."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    release = Version(f"{vllm_gaudi}".split(".post", 1)[0]) if vllm_gaudi.is_postrelease else vllm_gaudi
    return any(SpecifierSet(specifier).contains(release, prereleases=True) for specifier in pair.vllm_gaudi)


def fitting(manifest: Manifest, lmcache: str | Version | None) -> list[Pair]:
    """Return the pairs of this LMCache release; empty if no vllm-gaudi works with it."""
    from packaging.specifiers import SpecifierSet

    return [
        pair for pair in manifest.pairs if lmcache and SpecifierSet(pair.lmcache).contains(lmcache, prereleases=True)
    ]


def together(manifest: Manifest, lmcache: str | Version | None, plugin: Version) -> bool:
    """Return whether this LMCache release works with this vllm-gaudi."""
    return any(holds(pair, plugin) for pair in fitting(manifest, lmcache))


def mismatch(manifest: Manifest, lmcache: str, plugin: str, where: Path) -> str | None:
    """Return why an LMCache release will not serve with the vllm-gaudi that is in ``where``, and which one will.

    None if they are a pair, if the manifest names no pairs, or if one of the versions is none. Smoke levels other than
    inference prove no pair.
    """
    from packaging.version import InvalidVersion, Version

    from gaudi_patch.series.manifest import newest_release

    try:
        there = Version(plugin)
        Version(lmcache)
    except InvalidVersion:
        return None

    if together(manifest, lmcache, there) or not manifest.pairs:
        return None
    releases = map(newest_release, manifest.series)
    newest = next((release for release in releases if together(manifest, release, there)), None)
    instead = f"LMCache {newest} does" if newest else "no release that can be patched does"
    return f"LMCache {lmcache} does not go with vllm-gaudi {there}, which {where} has; {instead}"


def vllm_gaudi(pairs: Iterable[Pair], *, notes: bool = False) -> str:
    """Name the vllm-gaudi releases of ``pairs`` in words; "none" if there are none."""
    named = []
    for pair in pairs:
        note = f" ({pair.note})" if notes and pair.note else ""
        named.append(", ".join(words(specifier) for specifier in pair.vllm_gaudi) + note)
    return ", ".join(named) or "none"


def vllm(pairs: Iterable[Pair]) -> str:
    """Name the vLLM releases of ``pairs`` in words; "none" if there are none."""
    return ", ".join(words(specifier, base=True) for pair in pairs for specifier in pair.vllm_gaudi) or "none"


def words(specifier: str, *, base: bool = False) -> str:
    """Describe a specifier in words: "0.24.0", "0.14.1 to 0.17.1", "0.26.0 and later".

    ``base`` omits the pre-release part of a version. Raises ValueError for an invalid PEP 440 specifier, or one that
    is not a single closed range (``==A``; ``>=A``; ``>=A,<=B``).
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    def shown(version: str) -> str:
        return Version(version).base_version if base else version

    ends = {clause.operator: clause.version for clause in SpecifierSet(specifier)}
    if set(ends) == {"=="} and "*" not in ends["=="]:
        return shown(ends["=="])
    if set(ends) == {">="}:
        return f"{shown(ends['>='])} and later"
    if set(ends) == {">=", "<="} and Version(ends[">="]) < Version(ends["<="]):
        return f"{shown(ends['>='])} to {shown(ends['<='])}"
    raise ValueError(f"not a range of releases (==A; >=A; >=A,<=B): {specifier!r}")
