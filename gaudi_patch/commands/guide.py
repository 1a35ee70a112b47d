"""The options of `guide`."""

from __future__ import annotations

from typing import Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, JsonOption, NoPagerOption, verb_app
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def guide(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A guide; none: list them.", autocompletion=completion.guides)
    ] = "",
    no_pager: NoPagerOption = False,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show a guide: rendered on a terminal, Markdown in a pipe.

    Without NAME, list the guides.

    Example:

        gaudi-patch guide quick-start
    """

    def verb() -> Result:
        from gaudi_patch.commands import guide_pages as run

        return run.guide(name) if name else run.list_guides()

    finish("guide", verb, Format.TEXT, color, as_json, pager=not no_pager)
