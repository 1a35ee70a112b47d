"""The options of `list`."""

from __future__ import annotations

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, verb_app
from gaudi_patch.cli.run import finish
from gaudi_patch.report import Color, Format, Result

app = verb_app()


@app.command(name="list")
def list_(
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """List the LMCache releases that have a series, what each series brings, and the refused ones.

    Example:
        gaudi-patch list --json

    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import list_series
        from gaudi_patch.manifest import load

        return list_series(load(manifest))

    finish("list", verb, output_format, color, as_json)
