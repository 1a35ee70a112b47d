"""The options of `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, NoPagerOption, verb_app
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def show(
    version: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="An LMCache release, e.g. 0.5.6.", autocompletion=completion.versions),
    ],
    manifest: ManifestOption = None,
    no_pager: NoPagerOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show the series for a release: why each patch is there, and its diff.

    On a terminal it is highlighted and goes through a pager.

    Example:

        gaudi-patch show 0.5.6

    Example, the diffs alone:

        gaudi-patch show 0.5.6 --json | jq -r '.data.patches[].diff'
    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import show as run
        from gaudi_patch.series.manifest import load

        return run(load(manifest), version)

    finish("show", verb, output_format, color, as_json, pager=not no_pager)
