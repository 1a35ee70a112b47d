"""One process of a deployment, as any target starts it: a script, a unit, a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: In a value: the directory of the recipe's files.
HERE = "@HERE@"
#: In a value: a name of this host.
HOST = "@HOST@"


def secret(name: str) -> str:
    """Return what stands in a value for the environment variable ``name``, escaped for a URL."""
    return f"@SECRET:{name}@"


class Variable(NamedTuple):
    """An environment variable. ``value`` may hold HERE, HOST and secrets; all else is literal. ``why``: a comment."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Process:
    """A process, named as its script without ``.sh``.

    ``python`` is the interpreter that runs it, ``arguments`` what it is given. ``secrets`` are environment variables
    that must be set by whoever starts it: no file has them. ``ports`` are those it listens on, by what they are for,
    ``bind`` the address, ``health`` the path that answers on port "http" once it serves ("" where there is none).
    ``cards`` is how many cards it needs. ``patched``: it runs the patched LMCache, else only the release is checked.
    ``scratch`` is a directory of this process alone whose chunks nothing can find after a restart, ``trims`` one whose
    chunks it finds, but does not count: the directory, and the GB of them that are left when it starts. ``segment`` is
    the name of the shared memory that it makes, which stays where it is killed. ``metrics``: its processes count
    together, in files that are of one start alone.
    """

    name: str
    what: str
    python: str
    arguments: tuple[str, ...]
    variables: tuple[Variable, ...] = ()
    unset: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    bind: str = ""
    health: str = ""
    cards: int = 0
    patched: bool = True
    scratch: str = ""
    trims: tuple[str, float] | None = None
    segment: str = ""
    metrics: bool = False

    @property
    def runs_lmcache(self) -> bool:
        """Return whether it imports LMCache: a cleaner of directories does not."""
        return self.arguments[0] == "-m"

    @property
    def serves(self) -> bool:
        """Return whether this is vLLM, and no store."""
        return "serve" in self.arguments
