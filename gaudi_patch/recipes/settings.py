"""The settings of a recipe, and the recipe made from them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes.process import Process
from gaudi_patch.recipes.release import Release
from gaudi_patch.sizing.plan import LONG, SHORTEST_TIMEOUT, Sizing

#: GB of a pool for an unknown model, and of a disk.
CPU_GB, DISK_GB = 5.0, 50.0
#: The address that vLLM listens on without --bind: every interface, its own default.
EVERYWHERE = "0.0.0.0"  # noqa: S104 - vLLM's own default, and a note says what that means


@dataclass(frozen=True)
class Settings:
    """The settings that differ between deployments; sizes in GB are per rank.

    ``disk_gb`` and ``storage`` are None if they were not given: the mode has its own value, or does not use them.
    ``max_model_len`` is the longest request in tokens, None for the model's own. ``bind`` is the address that the
    recipe's processes listen on, None for the default of each. ``sizing`` is the sizing of the model, None if unknown.
    ``python`` is the interpreter that runs LMCache, ``apply`` the command line that patches it. ``quotas`` gives each
    cache_salt its own budget, in mode multiprocess.
    """

    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    ranks: int = 1
    port: int = 8000
    chunk: int = 256
    cpu_gb: float = CPU_GB
    disk_gb: float | None = None
    storage: str | None = None
    max_model_len: int | None = None
    bind: str | None = None
    sizing: Sizing | None = None
    python: str = "python3"
    apply: str = "gaudi-patch apply"
    quotas: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of `vllm serve` for these settings."""
        ranks = ("--tensor-parallel-size", str(self.ranks))
        longest = () if self.max_model_len is None else ("--max-model-len", str(self.max_model_len))
        most = self.sizing.max_num_seqs if self.sizing else None
        sequences = () if most is None else ("--max-num-seqs", str(most))
        address = ("--host", self.bind or EVERYWHERE, "--port", str(self.port))
        return (self.model, *address, *ranks, "--dtype", "bfloat16", *longest, *sequences)

    @property
    def timeout(self) -> int:
        """Return the seconds that a load from a store may take before LMCache gives up."""
        return self.sizing.timeout if self.sizing else SHORTEST_TIMEOUT

    @property
    def is_long(self) -> bool:
        """Return whether requests are so long that vllm-gaudi's guide asks for longer time limits."""
        return self.max_model_len is not None and self.max_model_len >= LONG


@dataclass(frozen=True)
class Recipe:
    """The files of a recipe, and what LMCache must accept: ``config`` as a file, ``server`` as arguments.

    ``notes`` are what a reader must know. ``processes`` are in start order; ``files`` has a script for each.
    """

    files: Mapping[str, str]
    config: Mapping[str, object] = field(default_factory=dict)
    server: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Mode:
    """A way to deploy LMCache; ``takes`` are the options that it accepts and other modes may not."""

    name: str
    summary: str
    compose: Callable[[Release, Settings], Recipe]
    takes: frozenset[str] = frozenset()


def usage(message: str, hint: str = "see `gaudi-patch recipe --help`") -> GaudiPatchError:
    """Return the usage error for an option that cannot be accepted."""
    return GaudiPatchError(Exit.USAGE, "usage", message, hint)
