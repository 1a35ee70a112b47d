"""The manifest's `pairs`: which releases of vllm-gaudi, and so of vLLM, go with an LMCache release.

A pair names its vllm-gaudi in words: ``"0.13.0 (a note), 0.14.1 to 0.17.1"`` or ``"0.26.0 and later"``. vLLM follows
from it: vllm-gaudi X.Y.Z, its candidates and its post releases are made for vLLM X.Y.Z (vllm-gaudi:
.github/workflows/create-release-branch.yaml takes the tag of vLLM that has the name of its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from packaging.version import Version

    from gaudi_patch.series.manifest import Manifest


class Range(NamedTuple):
    """Releases from ``first`` to ``last``, both included; without a ``last`` all later ones."""

    first: str
    last: str | None

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first} and later"
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


def ranges(text: str) -> Iterator[Range]:
    """The ranges that ``text`` names, its notes left out. Raises ValueError for other words."""
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        words = part.split()
        if len(words) == 3 and words[1] == "to":
            yield Range(words[0], words[2])
        elif words[1:] == ["and", "later"]:
            yield Range(words[0], None)
        elif len(words) == 1:
            yield Range(words[0], words[0])
        else:
            raise ValueError(f"not a range of versions: {part!r}")


def holds(text: str, version: Version) -> bool:
    """Whether ``version`` is in one of the ranges of ``text``; a release's post releases are in with it."""
    from packaging.specifiers import SpecifierSet

    def specifier(one: Range) -> str:
        if one.last is None:
            return f">={one.first}"
        return f"=={one.first}.*" if one.first == one.last else f">={one.first},<={one.last}.post99"

    return any(SpecifierSet(specifier(one)).contains(version, prereleases=True) for one in ranges(text))


def fitting(manifest: Manifest, lmcache: str | Version | None) -> list[str]:
    """What the pairs of this LMCache release say of vllm-gaudi; nothing where none goes with it."""
    from packaging.specifiers import SpecifierSet

    return [
        pair["vllm_gaudi"]
        for pair in manifest.pairs
        if lmcache and SpecifierSet(pair["lmcache"]).contains(lmcache, prereleases=True)
    ]


def vllm_gaudi(texts: list[str]) -> str:
    """The ranges of ``texts``, without their notes; "none" where there are none."""
    return ", ".join(str(one) for text in texts for one in ranges(text)) or "none"


def vllm(texts: list[str]) -> str:
    """The vLLM releases that go with the vllm-gaudi of ``texts``."""
    from packaging.version import Version

    def base(text: str | None) -> str | None:
        return None if text is None else Version(text).base_version

    found = [Range(base(one.first) or "", base(one.last)) for text in texts for one in ranges(text)]
    return ", ".join(map(str, found)) or "none"
