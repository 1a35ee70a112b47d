"""`size`: the size of a model's KV in host memory, /dev/shm and on disk, per context length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ChunkOption,
    ColorOption,
    FormatOption,
    JsonOption,
    ModelConfigOption,
    PromptsOption,
    RanksOption,
    command_app,
)
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.output.report import Block, Color, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.sizing.plan import Sizing
    from gaudi_patch.sizing.shapes import Shape

app = command_app()


@app.command()
def size(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A model's name or directory, as for vLLM; omit to list models.",
            autocompletion=completion.models,
        ),
    ] = "",
    model_config: ModelConfigOption = None,
    context: Annotated[
        int | None,
        typer.Option("--max-model-len", metavar="TOKENS", min=1, help="One context length (default: 2048 to 262144)."),
    ] = None,
    ranks: RanksOption = 1,
    pipeline: Annotated[
        int, typer.Option("--pipeline-parallel-size", metavar="N", min=1, help="Groups of cards that share the layers.")
    ] = 1,
    prompts: PromptsOption = 2,
    chunk: ChunkOption = 256,
    fp8: Annotated[bool, typer.Option("--fp8", help="Assume --kv-cache-dtype fp8_inc: one byte per value.")] = False,
    card: Annotated[
        str, typer.Option("--card", metavar="CARD", help="gaudi2 or gaudi3: also estimate what fits on the cards.")
    ] = "gaudi3",
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Print the size of a model's KV cache, for contexts from 2K to 256K tokens.

    `recipe` sizes its pool by the same calculation. Everything is computed from the model's shape.
    What fits on the cards is an estimate by vllm-gaudi's rule with its defaults.

    Example:

        gaudi-patch size meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 8

    Example, for a downloaded model:

        gaudi-patch size /models/mine --max-model-len 131072 --prompts 20
    """

    def verb() -> Result:
        import os

        from gaudi_patch.sizing import models, shapes
        from gaudi_patch.sizing.plan import CARDS, STEPS, Load
        from gaudi_patch.sizing.plan import size as sized

        if not model and model_config is None:
            return _models()
        if card not in CARDS:
            raise GaudiPatchError(Exit.USAGE, "usage", f"--card {card}: must be one of {', '.join(CARDS)}")
        shape = shapes.find(model, model_config, shapes.hub(os.environ))
        if shape is None:
            raise GaudiPatchError(
                Exit.USAGE,
                "unknown-model",
                f"the shape of model {model} is not known{did_you_mean(model, models.names())}",
                "pass its config.json, or its directory, with --model-config; `gaudi-patch size` lists the known ones",
            )
        width = 1 if fp8 else 2
        steps = STEPS if context is None else (context,)
        rows = [sized(shape, Load(step, ranks, pipeline, prompts, chunk, width, card)) for step in steps]
        return _report(shape, rows)

    finish("size", verb, output_format, color, as_json)


def _models() -> Result:
    from gaudi_patch.sizing.models import TABLE
    from gaudi_patch.sizing.plan import Load, human
    from gaudi_patch.sizing.plan import size as sized
    from gaudi_patch.sizing.shapes import known

    rows, data = [], []
    for row in TABLE:
        shape = known(row.names[0])
        assert shape is not None
        token = sized(shape, Load(row.longest)).token
        rows += [(name, human(token), f"{row.longest:,}") for name in row.names]
        data += [{"model": name, "token_bytes": token, "longest": row.longest} for name in row.names]
    return Result(
        "size",
        data={"models": data},
        blocks=[
            Table(("model", "per token, 1 rank", "longest context"), rows),
            Text(f"next: gaudi-patch size {rows[0][0]} --tensor-parallel-size 8", "next", verbatim=True),
        ],
    )


def _report(shape: Shape, rows: list[Sizing]) -> Result:
    from gaudi_patch.recipes.stores import KEPT_PROMPTS
    from gaudi_patch.sizing.plan import human, sentence

    first = rows[0]
    columns = ("context", "prompt, rank", "prompt, all", "--cpu-gb", "pinned, shm", "host memory", "fit on cards")
    table = [
        (
            f"{row.load.context:,}",
            human(row.prompt),
            human(row.prompt_host),
            f"{row.pool_gb:g}",
            human(row.pinned),
            human(row.host),
            "?" if row.sequences is None else f"{row.sequences:,}",
        )
        for row in rows
    ]
    load = first.load
    blocks: list[Block] = [
        Text(f"{shape.name}, by {shape.source}: {sentence(first)}"),
        Table(columns, table),
        Text(
            f"--cpu-gb keeps {load.prompts} prompt(s) of the context for each rank, plus 5 %. 'pinned, shm': all "
            "ranks together, or /dev/shm of a multiprocess server. 'host memory': that, 8 GiB per rank, and the "
            "weights. "
            f"'fit on cards': requests of the whole context on {load.card}, estimated. A disk or store takes "
            f"'prompt, all' for each prompt that it keeps; recipes give a shared directory room for {KEPT_PROMPTS}."
        ),
    ]
    longest = shape.longest
    if longest and any(row.load.context > longest for row in rows):
        blocks.append(Text(f"The model itself is made for {longest:,} tokens; for longer contexts, see its own page."))
    data: dict[str, Any] = {
        "model": shape.name,
        "source": shape.source,
        "formula": sentence(first),
        "ranks": load.ranks,
        "pipeline": load.pipeline,
        "prompts": load.prompts,
        "token_bytes": first.token,
        "longest": longest,
        "contexts": [_row(row) for row in rows],
    }
    return Result("size", data=data, blocks=blocks)


def _row(row: Sizing) -> dict[str, Any]:
    return {
        "context": row.load.context,
        "prompt_bytes": row.prompt,
        "prompt_host_bytes": row.prompt_host,
        "pool_gb": row.pool_gb,
        "pinned_bytes": row.pinned,
        "host_bytes": row.host,
        "timeout_seconds": row.timeout,
        "card_requests": row.sequences,
    }
