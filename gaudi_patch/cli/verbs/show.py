"""The options of `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, verb_app
from gaudi_patch.cli.run import finish
from gaudi_patch.report import Color, Format, Result

app = verb_app()


@app.command()
def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="An LMCache release, e.g. 0.5.6.")],
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show the series for a release: why each patch is there, the files, the diffs.

    Example:
        gaudi-patch show 0.5.6 | less

    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import show as run
        from gaudi_patch.manifest import load

        return run(load(manifest), version)

    finish("show", verb, output_format, color, as_json)
