"""The description of one LMCache on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """The target named by the user; at most one of the three."""

    python: Path | None = None
    path: Path | None = None
    root: Path | None = None


class Layout(str, Enum):
    """The form of the installation, which decides where the state is kept and whether RECORD may be changed."""

    WHEEL = "wheel"
    EDITABLE = "editable"
    CHECKOUT = "checkout"
    IMAGE = "image"


@dataclass(frozen=True)
class Installation:
    """One LMCache installation on disk.

    ``root`` is the base directory of patch paths, with links followed. ``version`` is taken literally from the
    metadata. It is "" for a git checkout and may be outdated for an editable install; both are identified by their
    hashes. ``record`` is None if it is missing or must not be changed. ``python`` and ``prefix`` are None if the
    target's interpreter is unknown; ``python_version`` and ``cache_tag`` then come from directory names and the
    wheel's tag.
    """

    package: str
    version: str
    root: Path
    layout: Layout
    dist_info: Path | None
    record: Path | None
    state_dir: Path
    python: Path | None
    python_version: tuple[int, int] | None
    cache_tag: str | None
    pycache_prefix: str | None
    own_interpreter: bool
    prefix: Path | None
    how: str
    warnings: tuple[str, ...]
    #: The root of an unpacked image, from which its links start
    image_root: Path | None = None
    #: The target as named by the user.
    target: Target = field(default=Target(), compare=False)
