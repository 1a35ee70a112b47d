"""The room of the pool for a request, by the calculation of `size` and `recipe`."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from gaudi_patch.doctor.arguments import Arguments
from gaudi_patch.doctor.case import Case
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.sizing import shapes
from gaudi_patch.sizing.plan import Load, Sizing, fits, sentence, size

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
#: As vLLM reads --max-model-len: k is 1000, K is 1024 (vllm/utils/argparse_utils.py, human_readable_int).
_UNITS = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}


class Room(NamedTuple):
    """The contents of a pool.

    ``short``: less than one request, which ``fix`` corrects. ``pools`` is the number of pools on the host.
    """

    seen: str
    pools: int | None = None
    short: bool = False
    fix: str = ""


def room(case: Case, pool: float) -> Room:
    """Return how much of the served model fits in ``pool`` GB per rank, or why that is unknown."""
    chunk = case.settings.values.get("chunk_size")
    if case.lacking("connector") or case.arguments is None:
        return Room("requests are not counted: the command line is not known, or gives no LMCache connector")
    if "MP" in case.arguments.connector or not isinstance(chunk, int) or chunk <= 0:
        return Room("requests are not counted: the pool is not this configuration's")
    sizing = _sizing(case, case.arguments, chunk)
    if isinstance(sizing, str):
        return Room(f"requests are not counted: {sizing}")
    context = sizing.load.context
    whole = context // chunk * chunk
    held = fits(sizing.shape, sizing.load, pool)
    if held < whole:
        return Room(
            f"{pool:g} GB holds {held:,} of the {context:,} tokens of one request: {sentence(sizing)}",
            sizing.pools,
            True,
            f"max_local_cpu_size: {size(sizing.shape, _once(sizing)).pool_gb:g}, or --max-model-len {max(held, chunk)}",
        )
    return Room(f"room for {held // max(whole, 1):,} request(s) of {context:,} tokens", sizing.pools)


def _once(sizing: Sizing) -> Load:
    load = sizing.load
    return Load(load.context, load.ranks, load.pipeline, 1, load.chunk, load.width)


def _sizing(case: Case, arguments: Arguments, chunk: int) -> Sizing | str:
    """Return the sizing of the model as it is served, or why it is unknown."""
    model = _model(arguments)
    if not model:
        return "the command line names no model"
    try:
        shape = shapes.find(model, None, shapes.hub(case.environ))
    except GaudiPatchError as error:
        return str(error)
    if shape is None:
        return f"no shape is known for {model}: gaudi-patch size MODEL --model-config FILE"
    given = arguments.options.get("max-model-len")
    length = _length(given) if isinstance(given, str) else shape.longest
    if not length:
        return f"the longest request is not known: --max-model-len is {given!r}"
    width = 1 if "fp8" in str(arguments.options.get("kv-cache-dtype", "")) else 2
    ranks = max(1, arguments.number("tensor-parallel-size", 1))
    pipeline = max(1, arguments.number("pipeline-parallel-size", 1))
    return size(shape, Load(length, ranks, pipeline, chunk=chunk, width=width))


def _model(arguments: Arguments) -> str:
    """Return the model as vLLM reads it: the word after `serve`, or --model."""
    named = arguments.options.get("model")
    if isinstance(named, str):
        return named
    words = shlex.split(arguments.line)
    first = [word for word in words[:3] if word not in ("vllm", "serve")]
    return first[0] if first and not first[0].startswith("-") else ""


def _length(given: str) -> int | None:
    found = _LENGTH.fullmatch(given.strip())
    return int(float(found[1]) * _UNITS[found[2]]) if found else None
