"""The processes of a recipe, and what each of them needs, whatever the target. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gaudi_patch.recipes import process as recipes
from gaudi_patch.recipes import stores
from gaudi_patch.recipes.release import Release
from gaudi_patch.recipes.settings import Recipe, Settings
from gaudi_patch.sizing.plan import GIB, RANK_OVERHEAD, SPARE

#: Huge pages of a pod in Intel's Kubernetes guide (docs.habana.ai, Running Kubernetes Workloads with Gaudi).
HUGE_PAGES = "95000Mi"
#: Seconds to wait for vllm-gaudi's warm-up, which "can even take a couple of hours" (v0.26.0,
#: docs/configuration/performance_tuning.md).
WARM_UP = 4 * 3600
#: Seconds for an engine to end its requests, and for LMCache to end its stores.
GRACE = 120
#: Shared memory of an engine: messages between its processes, not KV; an allowance, not a measurement.
ENGINE_SHM = 16 * GIB
#: Paths in a container: the recipe's files, the models, the attestation and gaudi-patch.
FILES, MODELS, ATTESTATION = "/etc/lmcache", "/models", "/etc/gaudi-patch.json"
TOOL = "/opt/gaudi-patch/bin/gaudi-patch"
#: How often old chunks are removed from a shared directory, in minutes.
CLEANED = 15


class Role(Enum):
    """The role of a process: vLLM on Gaudi, vLLM on ROCm, a server that keeps KV, or a cleaner that a timer runs."""

    ENGINE = "engine"
    ROCM = "rocm"
    SERVER = "server"
    CLEANER = "cleaner"


@dataclass(frozen=True)
class Process:
    """A process of a recipe with the name of its unit, and its ``memory`` and ``shm`` in bytes."""

    of: recipes.Process
    name: str
    role: Role
    memory: int
    shm: int

    @property
    def script(self) -> str:
        """Return the name of the recipe's script that runs the process."""
        return f"{self.of.name}.sh"

    @property
    def port(self) -> int:
        """Return the port that clients use; 0 if there is none."""
        return next(iter(self.of.ports.values()), 0)


@dataclass(frozen=True)
class Plan:
    """All processes of a recipe, and the directories in which they keep KV.

    ``local`` are directories of one engine, ``shared`` those of all. ``weights`` are the bytes of the model's weights,
    which count towards each engine's memory; None if they are unknown and not counted.
    """

    mode: str
    release: Release
    settings: Settings
    files: Mapping[str, str]
    processes: tuple[Process, ...]
    local: tuple[str, ...]
    shared: tuple[str, ...]
    weights: int | None

    def having(self, *roles: Role) -> tuple[Process, ...]:
        """Return the processes of these roles, in start order."""
        return tuple(process for process in self.processes if process.role in roles)

    @property
    def engines(self) -> tuple[Process, ...]:
        """Return the processes that serve on Gaudi."""
        return self.having(Role.ENGINE)

    @property
    def servers(self) -> tuple[Process, ...]:
        """Return the processes that keep KV for the engines."""
        return self.having(Role.SERVER)

    @property
    def multiprocess(self) -> bool:
        """Return whether engines and a server share the memory of one host."""
        return self.mode == "multiprocess"

    @property
    def uses_s3(self) -> bool:
        """Return whether the store uses the credentials of AWS's SDK."""
        return (self.settings.storage or "").startswith("s3:")

    @property
    def header(self) -> str:
        """Return the first line of every file."""
        return f"# For LMCache {self.release.version}; written by gaudi-patch recipe {self.mode}.\n"


def plan(mode: str, release: Release, settings: Settings, recipe: Recipe, weights: int | None) -> Plan:
    """Return the plan of a recipe; ``weights`` are the bytes of the model's weights, None if unknown."""
    local, shared = _directories(recipe)
    processes = tuple(_process(process, mode, settings, weights) for process in recipe.processes)
    return Plan(mode, release, settings, recipe.files, processes, local, shared, weights)


def _process(process: recipes.Process, mode: str, settings: Settings, weights: int | None) -> Process:
    in_server = mode == "multiprocess"
    kept = round(settings.cpu_gb * GIB * (1 + SPARE))
    if process.serves:
        rank = round(settings.cpu_gb * GIB) + stores.mooncake_buffer(settings)
        pools = 0 if in_server else rank * settings.ranks
        memory = pools + settings.ranks * RANK_OVERHEAD + (weights or 0) + ENGINE_SHM
        name = "vllm" if process.name == "serve" else f"vllm-{process.name}"
        return Process(process, name, Role.ENGINE if process.patched else Role.ROCM, memory, ENGINE_SHM)
    if not process.runs_lmcache:
        return Process(process, f"lmcache-{process.name}", Role.CLEANER, GIB // 2, 0)
    # An lm:// server has no size setting: it grows until its memory is full, so it gets the size of an engine's pools.
    held = kept if in_server else kept * settings.ranks
    return Process(process, f"lmcache-{process.name}", Role.SERVER, held + RANK_OVERHEAD, held)


def _directories(recipe: Recipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the directories in the settings of a recipe: those of one process, and those of all."""
    local, shared = [], []
    for value in _texts(recipe.config):
        if found := re.fullmatch(r"file://(/[^?]+?)/*", value):
            local.append(found[1])
        elif found := re.fullmatch(r"fs://[^/]*(/[^?]+?)/*", value):
            shared.append(found[1])
    for adapter in re.findall(r'"base_path": "([^"]+)"', " ".join(recipe.server)):
        local.append(adapter)
    return tuple(dict.fromkeys(local)), tuple(dict.fromkeys(shared))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []


def mebibytes(size: int) -> int:
    """Return bytes in MiB, rounded up."""
    return math.ceil(size / 1024**2)
