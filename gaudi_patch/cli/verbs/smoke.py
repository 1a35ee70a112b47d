"""The options of `smoke`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    PathOption,
    PythonOption,
    RequireOption,
    TimeoutOption,
    verb_app,
)
from gaudi_patch.cli.run import finish, smoke_options
from gaudi_patch.report import Color, Format, Result

app = verb_app()


@app.command()
def smoke(
    levels: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[LEVEL]...", help="imports, kernels, engine, ... (default: the first three)."),
    ] = None,
    python: PythonOption = None,
    path: PathOption = None,
    device: DeviceOption = "auto",
    rules: Annotated[str, typer.Option("--rules", help="PT_HPU_LAZY_MODE rules: lazy, eager, or both.")] = "lazy,eager",
    require: RequireOption = "",
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Prove that the installed LMCache works on HPU, level by level.

    imports: LMCache comes up without CUDA and finds the HPU. kernels: KV blocks are gathered and
    scattered bit for bit as an independent oracle says. engine: LMCache's own engine stores, looks
    up and retrieves over CPU, disk and a server.

    Each level runs in a process of the target's interpreter, on a real HPU where there is one,
    else on the emulated HPU (which needs PyTorch and g++). A skipped level is not a pass.

    Example:

        gaudi-patch smoke kernels engine --python /opt/venv/bin/python --device emulated
    """

    def verb() -> Result:
        from gaudi_patch.commands.smoke import smoke as run
        from gaudi_patch.locate import Target, locate

        chosen = smoke_options(",".join(levels or ()), device, rules, require, timeout, quiet=as_json)
        return run(locate(Target(python, path)), chosen)

    finish("smoke", verb, output_format, color, as_json)
