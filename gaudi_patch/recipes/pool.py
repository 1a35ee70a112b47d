"""The pool in host memory of a recipe: sized by the model, or checked against it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes.compose import CPU_GB
from gaudi_patch.sizing import shapes
from gaudi_patch.sizing.plan import Load, Sizing, fits, sentence, size


class Asked(NamedTuple):
    """The options about the pool; None means that the model decides."""

    cpu_gb: float | None
    max_model_len: int | None
    prompts: int
    ranks: int
    chunk: int


class Pool(NamedTuple):
    """The pool in GB, the longest request in tokens (None: vLLM's default), the reason, and the calculation."""

    gb: float
    longest: int | None
    why: str
    sizing: Sizing | None


def pooled(model: str, config: Path | None, mode: str, asked: Asked) -> Pool:
    """Return the pool of a mode, by the model or as asked.

    Each rank has its own pool; in mode multiprocess one server has the pool of all ranks. Raises ``short-pool`` (exit
    2) if ``asked`` holds less than one request: the patched LMCache would refuse to start.
    """
    shape = shapes.find(model, config, shapes.hub(os.environ))
    length = asked.max_model_len or (shape.longest if shape else None)
    if shape is None or length is None:
        given = CPU_GB if asked.cpu_gb is None else asked.cpu_gb
        hint = "--model-config FILE sizes it" if shape is None else "--max-model-len TOKENS sizes it"
        return Pool(given, asked.max_model_len, f"The pool of {given:g} GB was not sized by the model: {hint}.", None)
    load = Load(length, asked.ranks, prompts=asked.prompts, chunk=asked.chunk)
    sized = size(shape, load)
    shared = sized.pools if mode == "multiprocess" else 1
    needed = round(sized.pool_gb * shared, 1)
    if asked.cpu_gb is None:
        kept = f"{asked.prompts} requests of {length:,} tokens plus 5 %"
        return Pool(needed, length, f"--cpu-gb {needed:g}: {sentence(sized)}, for {kept}.", sized)
    held = fits(shape, load, asked.cpu_gb / shared)
    if held < length // asked.chunk * asked.chunk:
        raise GaudiPatchError(
            Exit.USAGE,
            "short-pool",
            f"--cpu-gb {asked.cpu_gb:g} holds {held:,} of the {length:,} tokens of one request: {sentence(sized)}",
            f"--cpu-gb {needed:g} keeps {asked.prompts} requests; or --max-model-len {max(held, asked.chunk)}",
        )
    why = f"--cpu-gb {asked.cpu_gb:g}: {sentence(sized)}; one request is {length:,} tokens."
    return Pool(asked.cpu_gb, length, why, sized)


def weights(sizing: Sizing | None, model: str, config: Path | None) -> int | None:
    """Return the size of the model's weights in bytes; None if unknown."""
    shape = sizing.shape if sizing else shapes.find(model, config, shapes.hub(os.environ))
    return shape.weights if shape else None
