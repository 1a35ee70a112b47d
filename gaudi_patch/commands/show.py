"""`show`: the series for a release, with the reason and the diff of each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, NoPagerOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Block, Color, Diff, Fields, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest, Series

app = command_app()


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
        from gaudi_patch.series.manifest import load

        return show_series(load(manifest), version)

    finish("show", verb, output_format, color, as_json, pager=not no_pager)


def show_series(manifest: Manifest, version: str) -> Result:
    """Return the series for ``version``: why each patch is there, the files it touches, and the diffs."""
    series = manifest.by_id(version) or _series_for(manifest, version)
    files = sorted(manifest.locked_files(series).items())
    actions = [
        ("create" if file.before is None else "delete" if file.after is None else "modify", path)
        for path, file in files
    ]
    fields = [("series", f"{series.id} (LMCache {series.versions})"), ("brings", ", ".join(series.capabilities) or "-")]
    if series.notes:
        fields.append(("notes", series.notes))
    listed = [(name.removesuffix(".patch"), manifest.patches[name].title) for name in series.patches]
    blocks: list[Block] = [Fields(fields), Text("")]
    blocks += [Table(("patch", "what it does"), listed), Text(""), Table(("action", "file"), actions)]
    patches: list[dict[str, Any]] = []
    for name in series.patches:
        patch = manifest.patches[name]
        text = manifest.patch_bytes(name).decode("utf-8", "backslashreplace")
        reasons = [("why", patch.why), ("upstream", patch.upstream), ("remove when", patch.remove_when)]
        blocks += [Text(f"\n{name}: {patch.title}", "next"), Fields(reasons), Diff(text)]
        patches.append(
            {
                "name": name,
                "title": patch.title,
                "why": patch.why,
                "upstream": patch.upstream,
                "remove_when": patch.remove_when,
                "capabilities": list(patch.capabilities),
                "sha256": patch.sha256,
                "diff": text,
            }
        )
    data = {
        "series": series.id,
        "versions": series.versions,
        "capabilities": list(series.capabilities),
        "patches": patches,
        "files": [{"path": path, "pre_sha256": file.before, "post_sha256": file.after} for path, file in files],
    }
    return Result("show", data=data, blocks=blocks)


def _series_for(manifest: Manifest, version: str) -> Series:
    from gaudi_patch.engine.verdicts import port_hint
    from gaudi_patch.errors import Exit, GaudiPatchError
    from gaudi_patch.series.manifest import Kind
    from gaudi_patch.series.versions import parse

    verdict = manifest.verdict(version)
    if verdict.series is not None:
        return verdict.series
    if verdict.kind in (Kind.REFUSED, Kind.UPSTREAM):
        raise GaudiPatchError(
            Exit.NOT_FOUND, f"{verdict.kind.value}-version", f"LMCache {version}: {verdict.reason}", verdict.advice
        )
    if parse(version) is None:
        newest = manifest.series[0].id if manifest.series else "0.5.6"
        what, hint = f"{version!r} is not a version", f"give one, such as {newest}; `gaudi-patch list` has all of them"
        raise GaudiPatchError(Exit.NOT_FOUND, "unknown-version", what, hint)
    nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
    raise GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for LMCache {version}{nearest}",
        f"see `gaudi-patch list` for the supported releases{port_hint(verdict)}",
    )
