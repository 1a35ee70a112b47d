"""`list` and `show`: the manifest, and a series with its diffs."""

from __future__ import annotations

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.manifest import Kind, Manifest, Series
from gaudi_patch.report import Block, Diff, Fields, Result, Table, Text


def list_series(manifest: Manifest) -> Result:
    """Every release with a verdict: its series and what the series brings, or why there is none."""
    names = list(manifest.capabilities)
    rows = [
        (one.id, str(len(one.patches)), *("yes" if name in one.capabilities else "-" for name in names))
        for one in manifest.series
    ]
    blocks: list[Block] = [
        Table(
            ("series", "patches", *(str(number) for number, _ in enumerate(names, 1))),
            rows,
            "Series by LMCache release",
        )
    ]
    if names:
        legend = [
            (f"{number} {name}", manifest.capabilities[name].get("summary", "")) for number, name in enumerate(names, 1)
        ]
        blocks.append(Fields(legend))
    for kind, rules in (("refused", manifest.refused), ("upstream has it", manifest.upstream)):
        if rules:
            listed = [(rule.versions, " ".join(part for part in (rule.reason, rule.advice) if part)) for rule in rules]
            blocks.append(Table((kind, "why, and what to do"), listed))
    if manifest.pairs:
        columns = list(dict.fromkeys(key for pair in manifest.pairs for key in pair))
        blocks.append(
            Table(columns, [[pair.get(key, "") for key in columns] for pair in manifest.pairs], "Releases that pair")
        )
    data = {
        "package": manifest.package,
        "series": [
            {
                "id": one.id,
                "versions": one.versions,
                "patches": list(one.patches),
                "capabilities": list(one.capabilities),
            }
            for one in manifest.series
        ],
        "capabilities": {name: dict(value) for name, value in manifest.capabilities.items()},
        "refused": [
            {"versions": rule.versions, "reason": rule.reason, "advice": rule.advice} for rule in manifest.refused
        ],
        "upstream": [{"versions": rule.versions, "reason": rule.reason} for rule in manifest.upstream],
        "pairs": [dict(pair) for pair in manifest.pairs],
    }
    return Result("list", data=data, blocks=blocks)


def show(manifest: Manifest, version: str) -> Result:
    """The series for ``version``: why each patch is there, the files it touches, and the diffs."""
    series = manifest.by_id(version) or _series_for(manifest, version)
    files = manifest.locked_files(series)
    blocks: list[Block] = [
        Fields(
            [
                ("series", f"{series.id} (LMCache {series.versions})"),
                ("brings", ", ".join(series.capabilities) or "-"),
                *([("notes", series.notes)] if series.notes else []),
            ]
        ),
        Table(
            ("action", "file"),
            [
                ("create" if one.before is None else "delete" if one.after is None else "modify", path)
                for path, one in sorted(files.items())
            ],
        ),
    ]
    patches = []
    for name in series.patches:
        patch = manifest.patches[name]
        text = manifest.patch_bytes(name)
        blocks += [
            Text(f"\n{name}", "next"),
            Fields([("why", patch.why), ("upstream", patch.upstream), ("remove when", patch.remove_when)]),
            Diff(text.decode("utf-8", "backslashreplace")),
        ]
        patches.append(
            {
                "name": name,
                "why": patch.why,
                "upstream": patch.upstream,
                "remove_when": patch.remove_when,
                "sha256": manifest.lock["patches"][name],
                "diff": text.decode("utf-8", "backslashreplace"),
            }
        )
    data = {
        "series": series.id,
        "versions": series.versions,
        "capabilities": list(series.capabilities),
        "patches": patches,
        "files": [
            {"path": path, "pre_sha256": one.before, "post_sha256": one.after} for path, one in sorted(files.items())
        ],
    }
    return Result("show", data=data, blocks=blocks)


def _series_for(manifest: Manifest, version: str) -> Series:
    verdict = manifest.verdict(version)
    if verdict.series is not None:
        return verdict.series
    if verdict.kind in (Kind.REFUSED, Kind.UPSTREAM):
        raise GaudiPatchError(
            Exit.NOT_FOUND, f"{verdict.kind.value}-version", f"LMCache {version}: {verdict.reason}", verdict.advice
        )
    nearest = f"; the nearest is {verdict.nearest.id}" if verdict.nearest else ""
    raise GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for LMCache {version}{nearest}",
        "see `gaudi-patch list`",
    )
