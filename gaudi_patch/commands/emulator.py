"""`emulator`: build the emulated HPU's device for another image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, PythonOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import step
from gaudi_patch.output.report import Color, Format, Preformatted, Result, Text

app = command_app("Build the emulated HPU for another image.")


@app.callback()
def options() -> None:
    """Make this a group of commands, although it has only one."""


@app.command()
def build(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to write; set HPU_EMULATOR_DEVICE=FILE to use it.")
    ],
    python: PythonOption = None,
    torch: Annotated[
        Path | None,
        typer.Option("--torch", metavar="PLACE", help="A torch directory or wheel, instead of an interpreter's."),
    ] = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Compile the emulated device into a file, for an image that has no C++ compiler.

    It needs g++ and the headers of the image's PyTorch, which is not imported. The file fits only
    that PyTorch, machine and version of gaudi-patch, and carries its own sha256: smoke refuses it
    anywhere else. It works with every Python version.

    Example, with g++ in a build stage only, both stages FROM the same base image:

        gaudi-patch emulator build --python python3 --out /device.so
        COPY --from=build /device.so /opt/hpu-emulator/device.so
        ENV HPU_EMULATOR_DEVICE=/opt/hpu-emulator/device.so
    """

    def verb() -> Result:
        from gaudi_patch.emulator import EmulatorError, pytorch
        from gaudi_patch.emulator import build as builder

        if (python is None) == (torch is None):
            raise GaudiPatchError(
                Exit.USAGE, "usage", "the device is built for one PyTorch", "choose it with --python or --torch"
            )
        place = torch if torch is not None else _torch_of(python or Path())
        try:
            with pytorch.named(place) as found, step(f"compiling the emulated device for PyTorch {found.version}"):
                sha256 = builder.build_to(out.absolute(), found)
        except EmulatorError as error:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "emulator-not-built",
                f"{error}; nothing was written",
                "the emulator's README lists what it needs: gaudi_patch/emulator/README.md",
                str(out),
            ) from None
        data = {"file": str(out.absolute()), "sha256": sha256, "torch": found.version, "machine": found.machine}
        use = f"for PyTorch {found.version} on {found.machine}; use it with HPU_EMULATOR_DEVICE={out}"
        return Result("emulator build", data=data, blocks=[Preformatted(f"{sha256}  {out}"), Text(use)])

    finish("emulator build", verb, output_format, color, as_json)


def _torch_of(python: Path) -> Path:
    """Return the directory of the PyTorch that ``python`` would import, without importing it."""
    import os

    from gaudi_patch.target.ask import AskError, Fields, ask
    from gaudi_patch.target.interpreter import named_python

    executable = named_python(python, os.environ)
    try:
        place = Fields(ask(executable, "find_torch.py", timeout=60.0, environ=os.environ, flags=("-B",)))
        origin = place.text("torch")
    except AskError as error:
        message = f"{executable} did not report where its PyTorch is: {error}"
        raise GaudiPatchError(Exit.ENVIRONMENT, "no-interpreter", message, "give it with --torch DIR") from None
    if not origin:
        message = f"{executable} has no PyTorch"
        raise GaudiPatchError(Exit.ENVIRONMENT, "no-torch", message, "give one with --torch DIR")
    return Path(origin)
