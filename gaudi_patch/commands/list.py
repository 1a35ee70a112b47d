"""The options of `list`."""

from __future__ import annotations

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, NoPagerOption, verb_app
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command(name="list")
def list_(
    manifest: ManifestOption = None,
    no_pager: NoPagerOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """List the releases with a series, what each brings, the refused ones.

    On a terminal it goes through a pager.

    Example:

        gaudi-patch list

    Example, every release with a series, for a script:

        gaudi-patch list --json | jq -r '.data.series[].id'
    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import list_series
        from gaudi_patch.series.manifest import load

        return list_series(load(manifest))

    finish("list", verb, output_format, color, as_json, pager=not no_pager)
