"""`guide`: the guides shipped with gaudi-patch."""

from __future__ import annotations

from typing import Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, JsonOption, NoPagerOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.output.report import Color, Format, Markdown, Result, Table, Text

app = command_app()


@app.command()
def guide(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A guide; omit to list them.", autocompletion=completion.guides)
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
    finish("guide", lambda: page(name) if name else contents(), Format.TEXT, color, as_json, pager=not no_pager)


def contents() -> Result:
    """Return the result that lists every guide and its subject."""
    from gaudi_patch import guides

    pages = [guides.read(name) for name in guides.NAMES]
    return Result(
        "guide",
        data={"guides": [{"name": entry.name, "title": entry.title, "summary": entry.summary} for entry in pages]},
        blocks=[
            Table(("guide", "about"), [(entry.name, entry.summary) for entry in pages]),
            Text("next: gaudi-patch guide NAME", "next"),
        ],
    )


def page(name: str) -> Result:
    """Return the result that shows one guide: rendered on a terminal, Markdown elsewhere."""
    from gaudi_patch import guides

    if name not in guides.NAMES:
        what = f"no such guide: {name!r}{did_you_mean(name, guides.NAMES)}"
        raise GaudiPatchError(Exit.USAGE, "unknown-guide", what, f"guides: {', '.join(guides.NAMES)}")
    shown = guides.read(name)
    return Result("guide", data=shown._asdict(), blocks=[Markdown(shown.markdown)])
