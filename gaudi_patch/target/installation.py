"""What is known of one LMCache on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What the user pointed at; at most one of the three."""

    python: Path | None = None
    path: Path | None = None
    root: Path | None = None


class Layout(str, Enum):
    """How the package lies on disk, which decides where state is kept and whether RECORD is ours to touch."""

    WHEEL = "wheel"
    EDITABLE = "editable"
    CHECKOUT = "checkout"
    IMAGE = "image"


@dataclass(frozen=True)
class Installation:
    """One LMCache on disk.

    ``root`` is the directory that patch paths are relative to, links followed. ``version`` is the metadata's, as
    written; "" for a git checkout, and perhaps out of date for an editable install: both are known by their hashes.
    ``record`` is None when missing or not ours to touch. ``python`` and ``prefix`` are None when no interpreter is
    known for the target; ``python_version`` and ``cache_tag`` then come from directory names and the wheel's tag.
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
    #: What the user pointed at to find it.
    target: Target = field(default=Target(), compare=False)
