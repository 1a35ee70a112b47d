"""The options of `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    PathOption,
    PythonOption,
    RootOption,
    verb_app,
)
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def doctor(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--config", metavar="FILE", help="LMCache's configuration (default: LMCACHE_CONFIG_FILE)."),
    ] = None,
    vllm_args: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--vllm-args",
            metavar="'...'",
            help="The command line of vllm serve, in one word; a --config FILE in it is read.",
        ),
    ] = None,
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Check the host, the build and the configuration before a server is started.

    Cards, driver, Gaudi software and torch.hpu; releases that go together; CUDA packages pulled in
    by mistake; the patch; environment variables; vLLM's KV connector; LMCache's configuration, as
    the installed LMCache loads it; the local disk, measured, and the remote store.

    Each finding is ok, a warning, a failure or unknown, with why it matters, a fix, and where that
    is known from. What cannot be seen here is unknown, with what would tell: nothing is guessed.
    Nothing is changed; a file of 64 MiB is written into the folder of local_disk, and removed.

    Exits 4 when there is a failure, 0 otherwise.

    Example:

        gaudi-patch doctor --config lmcache.yaml --vllm-args 'MODEL -tp 8'
    """

    def verb() -> Result:
        from gaudi_patch.doctor.examine import Options
        from gaudi_patch.doctor.examine import doctor as run
        from gaudi_patch.series.manifest import load
        from gaudi_patch.target.locate import Target

        return run(load(manifest), Target(python, path, root), Options(config, vllm_args))

    finish("doctor", verb, output_format, color, as_json)
