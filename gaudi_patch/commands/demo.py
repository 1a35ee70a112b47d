"""The options of `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, verb_app
from gaudi_patch.cli.run import exclude, finish
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def demo(
    version: Annotated[
        str,
        typer.Option("--version", metavar="VERSION", help="The LMCache release (default: the newest with a series)."),
    ] = "",
    keep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--keep", metavar="DIR", help="Make the environment in DIR and leave it there."),
    ] = None,
    torch: Annotated[
        str,
        typer.Option(
            "--torch", metavar="REQUIREMENT", help="The PyTorch (for the CPU) to install for the smoke checks."
        ),
    ] = "torch==2.13.0",
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Install LMCache alone and run no smoke checks.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Install vLLM too, and let it answer prompts from the patched LMCache.")
    ] = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Run the whole story in a throwaway environment.

    Install, check, apply, prove, roll back, compare.
    Installs LMCache from PyPI without its CUDA packages, and PyTorch (a CPU build: where pip's
    index gives the CUDA one, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index). Shows each step
    with its result and time, and what the emulated HPU counted before and after the patch.
    Leaves nothing behind. --full takes about ten minutes and 2 GB, and adds a table of prompts, cache
    hits, answers and times.

    Example:

        gaudi-patch demo --version 0.4.2 --no-smoke
    """

    def verb() -> Result:
        from gaudi_patch.demo.story import Options
        from gaudi_patch.demo.story import demo as run

        exclude("--full", "--no-smoke", full and no_smoke)
        return run(Options(version, keep, "" if no_smoke else torch, as_json, full))

    finish("demo", verb, output_format, color, as_json)
