"""The options of `recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, JsonOption, ManifestOption, PathOption, PythonOption, verb_app
from gaudi_patch.cli.run import finish, target
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def recipe(
    mode: Annotated[
        str,
        typer.Argument(
            metavar="[MODE]", help="memory, disk, remote, ...; none: list them.", autocompletion=completion.modes
        ),
    ] = "",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", metavar="DIR", help="Write the files into DIR (default: print them)."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model to serve, as vLLM takes it.")
    ] = "meta-llama/Llama-3.1-8B-Instruct",
    ranks: Annotated[
        int, typer.Option("--tensor-parallel-size", metavar="N", min=1, help="Cards that share the model.")
    ] = 1,
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=1, max=65534, help="vLLM's port.")] = 8000,
    storage: Annotated[
        str,
        typer.Option("--storage", metavar="WHERE", help="An absolute folder, or lm://HOST:PORT, as the mode needs."),
    ] = "",
    chunk: Annotated[
        int, typer.Option("--chunk-size", metavar="TOKENS", help="A multiple of vllm-gaudi's block of 128.")
    ] = 256,
    cpu_gb: Annotated[float, typer.Option("--cpu-gb", metavar="GB", min=0.1, help="Host memory for each rank.")] = 5.0,
    disk_gb: Annotated[float, typer.Option("--disk-gb", metavar="GB", min=0.1, help="Disk for each rank.")] = 50.0,
    lmcache: Annotated[
        str,
        typer.Option(
            "--lmcache",
            metavar="VERSION",
            help="For this release, installed or not; checked by none.",
            autocompletion=completion.versions,
        ),
    ] = "",
    python: PythonOption = None,
    path: PathOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Write a configuration of LMCache, and the scripts that start vLLM with it.

    Without MODE, list the ways to deploy LMCache.

    The installed LMCache loads the configuration first, in a process of its own interpreter, and
    has to take every value as it is written. A mode that the release cannot do on an HPU is
    refused with the reason. An existing file that differs is never overwritten.

    Example:

        gaudi-patch recipe memory --python /opt/venv/bin/python --out ~/lmcache

    Example, a store that hosts share, for a release that is not installed here:

        gaudi-patch recipe shared --lmcache 0.5.6 --storage /mnt/lmcache
    """

    def verb() -> Result:
        from gaudi_patch.recipes import write as run
        from gaudi_patch.recipes.compose import Settings
        from gaudi_patch.series.manifest import load

        if not mode:
            return run.list_modes()
        settings = Settings(model, ranks, port, chunk, cpu_gb, disk_gb, storage)
        if not lmcache:
            return run.for_installation(*target(python, path, None, manifest), mode, settings, out)
        if python or path:
            raise GaudiPatchError(Exit.USAGE, "usage", "--lmcache asks no installation: leave out --python and --path")
        return run.for_version(load(manifest), lmcache, mode, settings, out)

    finish("recipe", verb, Format.TEXT, color, as_json)
