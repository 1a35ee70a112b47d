"""Versions and PEP 440 specifiers, as the manifest uses them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version

#: Compare `==0.5.6` with `0.5.6`, both normalised, without packaging, whose import takes 12 ms.
_PLAIN = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(\.post[1-9][0-9]*)?", re.ASCII)

#: A local version, as of a patched wheel: `==0.5.6` matches `0.5.6+gaudi.1`.
_LOCAL = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*", re.ASCII)

_RELEASE = r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,9}"
_VERSION = rf"{_RELEASE}(?:(?:a|b|rc)[0-9]{{1,9}})?(?:\.post[0-9]{{1,9}})?(?:\.dev[0-9]{{1,9}})?"
_CLAUSE = rf" *(?:[=!]=(?:{_RELEASE}\.\*|{_VERSION})|(?:[<>]=?){_VERSION}|~={_RELEASE}\.[0-9]{{1,9}}) *"
_SPECIFIER = re.compile(rf"{_CLAUSE}(?:,{_CLAUSE}){{0,9}}", re.ASCII)


def specifier(text: str) -> str:
    """Return ``text`` if it is a PEP 440 specifier in the spelling that the manifest allows, else raise ValueError.

    Everything that passes can be parsed by packaging, so a run detects a bad specifier on loading the lock, without
    that import.
    """
    if not _SPECIFIER.fullmatch(text):
        raise ValueError(f"not a PEP 440 specifier: {text!r:.80}")
    return text


def parse(text: str) -> Version | None:
    """Parse a version; None if it is not one."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def matches(specifier: str, version: str) -> bool:
    """Return whether ``version`` is in ``specifier``; pre-releases count like any other."""
    pinned = specifier.removeprefix("==")
    public, plus, local = version.partition("+")
    plain = _PLAIN.fullmatch(public) and (not plus or _LOCAL.fullmatch(local))
    if plain and specifier.startswith("==") and _PLAIN.fullmatch(pinned):
        return pinned == public
    from packaging.specifiers import SpecifierSet

    parsed = parse(version)
    # Without prereleases=True, packaging 24.2 and 26.3 disagree about dev versions.
    return parsed is not None and SpecifierSet(specifier).contains(parsed, prereleases=True)


def newest(specifier: str) -> Version | None:
    """Return the newest release that a specifier names; None if it names none."""
    numbers = [number for text in re.findall(r"[0-9][^,\s]*", specifier) if (number := parse(text.rstrip(".*")))]
    return max(numbers) if numbers else None
