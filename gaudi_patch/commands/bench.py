"""The options of `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    PathOption,
    PythonOption,
    verb_app,
)
from gaudi_patch.cli.run import finish, smoke_options, target
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def bench(
    python: PythonOption = None,
    path: PathOption = None,
    manifest: ManifestOption = None,
    shapes: Annotated[
        str, typer.Option("--shapes", metavar="NAMES", help="Shapes of models: 8b, 70b-tp8, mla.")
    ] = "8b,70b-tp8,mla",
    contexts: Annotated[
        str, typer.Option("--contexts", metavar="LENGTHS", help="Context lengths in tokens.")
    ] = "2K,8K,32K,128K,256K",
    device: DeviceOption = "auto",
    rules: Annotated[str, typer.Option("--rules", help="PT_HPU_LAZY_MODE rules: lazy or eager.")] = "lazy",
    memory: Annotated[
        float, typer.Option("--memory", metavar="GIB", min=0.0, help="Host memory to use (0: half of what is free).")
    ] = 0.0,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1.0, help="For one code on one shape.")
    ] = 1800.0,
    svg: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--svg", metavar="FILE", help="Also write the bar chart there."),
    ] = None,
    startup: Annotated[
        bool, typer.Option("--cli", help="Measure the start-up of gaudi-patch's own verbs instead.")
    ] = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Measure KV store and load with the patched and with the stock code, side by side.

    Both run on the device at hand: an HPU, or else the emulated HPU. What is counted: graph
    launches, compiled graphs (also for the next prompt of another length), copies, bytes,
    synchronizations; and the time, beside a plain memcpy of the same bytes. Every transfer that
    is counted is also compared byte by byte.

    Works on a patched and on an unpatched installation, and writes nothing into it: the other
    code is laid out in a temporary folder. A request that is longer than memory allows goes over
    the same slots and memory objects again and again, and is marked with a star.

    Example:

        gaudi-patch bench --shapes 8b --contexts 2K,8K --svg bench.svg
    """

    def verb() -> Result:
        if startup:
            from gaudi_patch.bench.startup import bench as run_startup

            return run_startup()
        from gaudi_patch.bench.side_by_side import Options
        from gaudi_patch.bench.side_by_side import bench as run
        from gaudi_patch.errors import Exit, GaudiPatchError

        chosen = smoke_options("", device, rules, "", timeout)
        if len(chosen.rules) != 1:
            raise GaudiPatchError(Exit.USAGE, "usage", "bench takes one of lazy, eager as --rules")
        options = Options(shapes, contexts, device, chosen.rules[0], memory, timeout, svg, quiet=as_json)
        return run(*target(python, path, None, manifest), options)

    finish("bench", verb, output_format, color, as_json)
