"""`list`: the releases with a series, their vLLM pairs, what works and what does not; or one release in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    NoPagerOption,
    VerboseOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, finish
from gaudi_patch.output.report import Block, Color, Fields, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest, Pair, Series

app = command_app()


@app.command(name="list")
def list_(
    version: Annotated[
        str,
        typer.Argument(
            metavar="[VERSION]",
            help="An LMCache release, e.g. 0.5.6; omit to list all.",
            autocompletion=completion.versions,
        ),
    ] = "",
    manifest: ManifestOption = None,
    verbose: VerboseOption = False,
    no_pager: NoPagerOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """List the releases with a series, and what works with each.

    Newest first: the vLLM and vllm-gaudi for each release, what works in all releases or in some,
    what no patch can make work, and the releases that are refused. --verbose also shows which
    patches each release has.

    On a terminal it goes through a pager.

    Example:

        gaudi-patch list

    Example, one release in full:

        gaudi-patch list 0.5.6

    Example, every release with a series, for a script:

        gaudi-patch list --json | jq -r '.data.series[].id'
    """

    def verb() -> Result:
        from gaudi_patch.series.manifest import load

        if version:
            return list_release(load(manifest), version)
        return list_series(load(manifest), verbose=detailed(verbose, output_format))

    finish("list", verb, output_format, color, as_json, pager=not no_pager)


def list_series(manifest: Manifest, *, verbose: bool = False) -> Result:
    """Return every release with a verdict: its pairs and what its series adds, or why there is no series."""
    partners = _partners(manifest, manifest.series)
    blocks: list[Block] = []
    if manifest.series:
        count = len(manifest.series)
        blocks.append(
            Text(f"{count} release{'s' if count != 1 else ''} of LMCache can be patched, newest first", "good")
        )
        blocks += [Text(""), _releases(manifest, partners)]
        blocks += [Text(f"{series.id}: {series.notes}") for series in manifest.series if series.notes]
        blocks += [Text(""), *_capabilities(manifest), Text(""), _limits(manifest.series), Text("")]
        if verbose:
            blocks += [_patches(manifest), Text("")]
    for kind, rules in (("refused", manifest.refused), ("upstream has it", manifest.upstream)):
        if rules:
            listed = [(_range(rule.versions), "; ".join(filter(None, (rule.reason, rule.advice)))) for rule in rules]
            blocks.append(Table((kind, "why, and what to do"), listed))
    if manifest.series:
        blocks.append(Text(f"next: gaudi-patch list {manifest.series[0].id}", "next"))
    return Result("list", data=_data(manifest, partners, manifest.series), blocks=blocks)


def list_release(manifest: Manifest, version: str) -> Result:
    """Return everything about one release.

    Raises ``unknown-version`` or ``refused-version`` (exit 3) if it has no series.
    """
    from gaudi_patch.commands.show import series_of
    from gaudi_patch.series import pairs

    series = series_of(manifest, version)
    partners = _partners(manifest, (series,))
    found = partners[series.id]
    usable = "can be patched" if found else "can be patched, but works with no vllm-gaudi"
    fields = [("vLLM", pairs.vllm(found)), ("vllm-gaudi", pairs.vllm_gaudi(found, notes=True))]
    fields += [("note", series.notes)] if series.notes else []
    blocks: list[Block] = [Text(f"LMCache {series.id} {usable}", "good" if found else "bad"), Fields(fields), Text("")]
    blocks += [
        Text("Works, by the patches"),
        *_bullets([manifest.capabilities[name].summary for name in series.capabilities]),
    ]
    blocks += [Text(""), _limits((series,)), Text("")]
    rows = [(name.removesuffix(".patch"), manifest.patches[name].title) for name in series.patches]
    blocks += [Table(("patch", "what it does"), rows), Text(f"next: gaudi-patch show {series.id}", "next")]
    return Result("list", data=_data(manifest, partners, (series,)), blocks=blocks)


def _partners(manifest: Manifest, chosen: Sequence[Series]) -> dict[str, list[Pair]]:
    from gaudi_patch.series import pairs
    from gaudi_patch.series.manifest import newest_release

    return {series.id: pairs.fitting(manifest, newest_release(series)) for series in chosen}


def _range(specifier: str) -> str:
    """Describe a range of refused releases: "0.3.0 to before 0.3.7"."""
    first, comma, last = specifier.partition(",<")
    if first.startswith(">=") and comma and not last.startswith("="):
        return f"{first.removeprefix('>=')} to before {last}"
    return specifier


def _bullets(texts: Sequence[str]) -> list[Block]:
    return [Text(f"- {text}") for text in texts]


def _limits(chosen: Sequence[Series]) -> Table:
    """Return what does not work in the releases ``chosen``, and what to use instead."""
    from gaudi_patch.series import coverage
    from gaudi_patch.series.limits import LIMITS

    rows = []
    for limit in LIMITS:
        if any(map(limit.holds, chosen)):
            where = (coverage.words(chosen, limit.holds),) if len(chosen) > 1 else ()
            rows.append((*where, limit.what, limit.instead))
    columns = ("does not work", "use instead")
    return Table(("LMCache", *columns) if len(chosen) > 1 else columns, rows)


def _releases(manifest: Manifest, partners: dict[str, list[Pair]]) -> Table:
    from gaudi_patch.series import coverage, pairs

    rows = [
        (coverage.span(group), pairs.vllm(found), pairs.vllm_gaudi(found))
        for found, group in coverage.runs(manifest.series, lambda series: partners[series.id])
    ]
    return Table(("LMCache", "vLLM", "vllm-gaudi"), rows)


def _capabilities(manifest: Manifest) -> list[Block]:
    """Return what works in every release, then what works only in some, with their names."""
    from gaudi_patch.series import coverage

    everywhere, some = [], []
    for name, capability in manifest.capabilities.items():

        def has(series: Series, name: str = name) -> bool:
            return name in series.capabilities

        words = coverage.words(manifest.series, has)
        everywhere += [capability.summary] if words == "all" else []
        some += [(words, capability.summary)] if words not in ("all", "none") else []
    blocks: list[Block] = [Text("Works in every release, by the patches"), *_bullets(everywhere)] if everywhere else []
    return [*blocks, Text(""), Table(("LMCache", "works also"), some)] if some else blocks


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


def _data(manifest: Manifest, partners: dict[str, list[Pair]], chosen: Sequence[Series]) -> dict[str, Any]:
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
            for series in chosen
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
