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

    First comes what each patch does and why, then the files, then the diffs.

    On a terminal the output is highlighted and goes through a pager.

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
    """Return the series for ``version``: what each patch does and why, then the files, then the diffs."""
    series = series_of(manifest, version)
    files = sorted(manifest.locked_files(series).items())
    actions = [
        ("create" if file.before is None else "delete" if file.after is None else "modify", path)
        for path, file in files
    ]
    fields = [("series", f"{series.id} (LMCache {series.versions})"), ("brings", ", ".join(series.capabilities) or "-")]
    if series.notes:
        fields.append(("notes", series.notes))
    count = f"{len(series.patches)} patch{'es' if len(series.patches) != 1 else ''}"
    changed = f"{len(files)} file{'s' if len(files) != 1 else ''}"
    blocks: list[Block] = [Text(f"LMCache {series.versions.removeprefix('==')}: {count}, {changed} changed", "good")]
    blocks += [Fields(fields), Text(""), _releases(manifest, series), Text("")]
    diffs: list[Block] = []
    patches: list[dict[str, Any]] = []
    for name in series.patches:
        patch = manifest.patches[name]
        text = manifest.patch_bytes(name).decode("utf-8", "backslashreplace")
        reasons = [("why", patch.why), ("upstream", patch.upstream), ("remove when", patch.remove_when)]
        blocks += [Text(f"{name}: {patch.title}", "next"), Fields(reasons), Text("")]
        diffs += [Text(f"\n{name}", "next"), Diff(text)]
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
    blocks += [Table(("action", "file"), actions), *diffs]
    data = {
        "series": series.id,
        "versions": series.versions,
        "capabilities": list(series.capabilities),
        "patches": patches,
        "files": [{"path": path, "pre_sha256": file.before, "post_sha256": file.after} for path, file in files],
    }
    return Result("show", data=data, blocks=blocks)


def _releases(manifest: Manifest, series: Series) -> Table:
    """Return the patches of ``series``, each with all releases whose series have it."""
    from gaudi_patch.series import coverage

    rows = []
    for name in series.patches:

        def has(other: Series, name: str = name) -> bool:
            return name in other.patches

        rows.append((name.removesuffix(".patch"), manifest.patches[name].title, coverage.words(manifest.series, has)))
    return Table(("patch", "what it does", "LMCache"), rows, "Patches, and the releases that have them")


def series_of(manifest: Manifest, version: str) -> Series:
    """Return the series with this name, or for this release. Raises ``refused-version`` or ``unknown-version`` (exit
    3).
    """
    if named := manifest.by_id(version):
        return named
    verdict = manifest.named(version)
    if verdict.series is not None:
        return verdict.series

    from gaudi_patch.engine.situation import given
    from gaudi_patch.engine.verdicts import port_hint
    from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
    from gaudi_patch.series.manifest import Kind
    from gaudi_patch.series.versions import parse
    from gaudi_patch.target.installation import Target
    from gaudi_patch.target.invocation import command_line

    if verdict.kind in (Kind.REFUSED, Kind.UPSTREAM):
        raise GaudiPatchError(
            Exit.NOT_FOUND, f"{verdict.kind.value}-version", f"LMCache {version}: {verdict.reason}", verdict.advice
        )
    listing = command_line("list", target=Target(), manifest=given(manifest))
    if parse(version) is None:
        newest = manifest.series[0].id if manifest.series else "0.5.6"
        known = [series.id for series in manifest.series]
        what = f"{version!r} is not a version{did_you_mean(version, known)}"
        hint = f"give one, such as {newest}; `{listing}` has all of them"
        raise GaudiPatchError(Exit.NOT_FOUND, "unknown-version", what, hint)
    nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
    raise GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for LMCache {version}{nearest}",
        f"see `{listing}` for the supported releases{port_hint(verdict, manifest)}",
    )
