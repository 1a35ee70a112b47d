"""A process of a deployment, whatever target starts it: a script, a unit, a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: Placeholder in a value: the directory of the recipe's files.
HERE = "@HERE@"
#: Placeholder in a value: a name of this host.
HOST = "@HOST@"
#: The files of LMCache's disk backend: named after a key, whose parts "@" separates; ".damaged" follows a damaged one.
DISK_CHUNKS = "*@*.pt*"


def secret(name: str) -> str:
    """Return the placeholder in a value for the environment variable ``name``, escaped for a URL."""
    return f"@SECRET:{name}@"


class Variable(NamedTuple):
    """An environment variable. ``value`` may hold HERE, HOST and secrets; the rest is literal. ``why`` is a comment."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Process:
    """A process, named like its script without ``.sh``.

    ``python`` is the interpreter that runs it, with ``arguments``. ``secrets`` are environment variables that the user
    who starts it must set: no file contains them. ``ports`` are those it listens on, by purpose, and ``bind`` is the
    address. ``health`` is the path that answers on port "http" once it serves ("" if there is none). ``cards`` is the
    number of cards it needs. ``patched``: it runs the patched LMCache; otherwise only the release is checked.
    ``scratch`` is its own directory, whose chunks nothing can find after a restart. ``trims`` is a directory whose
    chunks it finds but does not count, with the GB of them that are left at a start. ``segment`` names the shared
    memory that it creates, which remains if it is killed. ``metrics``: its processes count together, in files that
    belong to one start only.
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
        """Return whether the process imports LMCache; a cleaner of directories does not."""
        return self.arguments[0] == "-m"

    @property
    def serves(self) -> bool:
        """Return whether the process is vLLM, not a store."""
        return "serve" in self.arguments
