"""The types of the manifest: series, patches, capabilities, rules, pairs, and the verdict for a version."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Kind(str, Enum):
    """Verdict for a version."""

    SERIES = "series"
    UPSTREAM = "upstream"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Patch(NamedTuple):
    """One unified diff, and why it is there.

    ``name`` is its path below ``patches/``: a ``.patch`` file, or a directory of files that it creates.
    ``capabilities`` are what it adds to every series that has it; ``hunks`` is its number of hunks per file.
    ``sha256`` is that of the diff, "" until the lock is generated. ``built_in`` marks a patch of gaudi-patch itself,
    on top of which a site's own manifest applies its patches.
    """

    name: str
    title: str
    why: str
    upstream: str
    remove_when: str
    capabilities: tuple[str, ...] = ()
    sha256: str = ""
    hunks: Mapping[str, int] = {}
    built_in: bool = False


class LockedFile(NamedTuple):
    """The sha256 of one file before and after a series; None if the file does not exist."""

    before: str | None
    after: str | None


class Series(NamedTuple):
    """The ordered patches for one set of versions.

    ``capabilities`` are those of its patches. ``files`` maps the paths that it touches (relative to site-packages)
    to their hashes; empty until the lock is generated.
    """

    id: str
    versions: str
    patches: tuple[str, ...]
    capabilities: tuple[str, ...]
    notes: str = ""
    files: Mapping[str, LockedFile] = {}


class Capability(NamedTuple):
    """A capability that series have; ``smoke`` are the levels that check it."""

    id: str
    summary: str
    evidence: str = ""
    smoke: tuple[str, ...] = ()


class Rule(NamedTuple):
    """Versions without a series: refused with a reason, or not needed because upstream has the changes."""

    versions: str
    reason: str
    advice: str = ""


class Pair(NamedTuple):
    """LMCache releases and the vllm-gaudi releases that work with them; both are PEP 440 specifiers.

    One match among the specifiers in ``vllm_gaudi`` is enough; `pairs` evaluates them.
    """

    lmcache: str
    vllm_gaudi: tuple[str, ...]
    note: str = ""


class Verdict(NamedTuple):
    """The manifest's verdict on a version."""

    kind: Kind
    version: str
    series: Series | None = None
    reason: str = ""
    advice: str = ""
    nearest: Series | None = None
