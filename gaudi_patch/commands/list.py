"""`list`: the releases with a series, what goes with them, what works, and which patches each has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, ManifestOption, NoPagerOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Block, Color, Fields, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest, Pair, Series

app = command_app()


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
        from gaudi_patch.series.manifest import load

        return list_series(load(manifest))

    finish("list", verb, output_format, color, as_json, pager=not no_pager)


def list_series(manifest: Manifest) -> Result:
    """Return every release with a verdict: what goes with it and what its series brings, or why there is none."""
    from gaudi_patch.series import pairs
    from gaudi_patch.series.manifest import newest_release

    partners = {series.id: pairs.fitting(manifest, newest_release(series)) for series in manifest.series}
    blocks: list[Block] = []
    if manifest.series:
        for table in (_releases(manifest, partners), _capabilities(manifest), _patches(manifest)):
            blocks += [table, Text("")]
    if notes := [(series.id, series.notes) for series in manifest.series if series.notes]:
        blocks.append(Fields(notes))
    for kind, rules in (("refused", manifest.refused), ("upstream has it", manifest.upstream)):
        if rules:
            listed = [(rule.versions, "; ".join(part for part in (rule.reason, rule.advice) if part)) for rule in rules]
            blocks.append(Table((kind, "why, and what to do"), listed))
    return Result("list", data=_data(manifest, partners), blocks=blocks)


def _releases(manifest: Manifest, partners: dict[str, list[Pair]]) -> Table:
    from gaudi_patch.series import coverage, pairs

    rows = [
        (coverage.span(group), pairs.vllm(found), pairs.vllm_gaudi(found))
        for found, group in coverage.runs(manifest.series, lambda series: partners[series.id])
    ]
    return Table(("LMCache", "vLLM", "vllm-gaudi"), rows, "Releases with a series, and what goes with them")


def _capabilities(manifest: Manifest) -> Table:
    from gaudi_patch.series import coverage

    rows = []
    for name, capability in manifest.capabilities.items():

        def has(series: Series, name: str = name) -> bool:
            return name in series.capabilities

        rows.append((coverage.words(manifest.series, has), capability.summary))
    return Table(("LMCache", "what works"), rows, "What the patches make work")


def _patches(manifest: Manifest) -> Table:
    from gaudi_patch.series import coverage

    rows = []
    for name in manifest.patches:

        def has(series: Series, name: str = name) -> bool:
            return name in series.patches

        marks, words = coverage.row(manifest.series, has), coverage.words(manifest.series, has)
        rows.append((name.removesuffix(".patch"), marks, words))
    columns = ("patch", coverage.scale(manifest.series), "LMCache")
    return Table(columns, rows, "Patches, and the releases that have them")


def _data(manifest: Manifest, partners: dict[str, list[Pair]]) -> dict[str, Any]:
    from gaudi_patch.series import pairs

    return {
        "package": manifest.package,
        "series": [
            {
                "id": series.id,
                "versions": series.versions,
                "patches": list(series.patches),
                "capabilities": list(series.capabilities),
                "notes": series.notes,
                "vllm": pairs.vllm(partners[series.id]),
                "vllm_gaudi": pairs.vllm_gaudi(partners[series.id]),
            }
            for series in manifest.series
        ],
        "patches": {
            name: {"title": patch.title, "capabilities": list(patch.capabilities), "upstream": patch.upstream}
            for name, patch in manifest.patches.items()
        },
        "capabilities": {name: capability._asdict() for name, capability in manifest.capabilities.items()},
        "refused": [
            {"versions": rule.versions, "reason": rule.reason, "advice": rule.advice} for rule in manifest.refused
        ],
        "upstream": [{"versions": rule.versions, "reason": rule.reason} for rule in manifest.upstream],
        "pairs": [
            {
                "lmcache": pair.lmcache,
                "vllm_gaudi": pairs.vllm_gaudi([pair]),
                "vllm": pairs.vllm([pair]),
                "specifiers": list(pair.vllm_gaudi),
                "note": pair.note,
            }
            for pair in manifest.pairs
        ],
    }
