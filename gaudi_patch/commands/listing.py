"""`list` and `show`: the manifest, and a series with its diffs."""

from __future__ import annotations

from string import ascii_letters

from gaudi_patch.engine.describe import port_hint
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Diff, Fields, Result, Table, Text
from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import Kind, Manifest, Series, newest_release


def list_series(manifest: Manifest) -> Result:
    """Every release with a verdict: what goes with it and what its series brings, or why there is none."""
    names = list(manifest.capabilities)
    letters = dict(zip(names, ascii_letters[: len(names)], strict=True))
    partners = {one.id: pairs.fitting(manifest, newest_release(one)) for one in manifest.series}
    rows = [
        (
            one.id,
            pairs.vllm(partners[one.id]),
            pairs.vllm_gaudi(partners[one.id]),
            "".join(letter if name in one.capabilities else "-" for name, letter in letters.items()),
        )
        for one in manifest.series
    ]
    blocks: list[Block] = [
        Table(
            ("LMCache", "vLLM", "vllm-gaudi", "capabilities"),
            rows,
            "LMCache releases, the vLLM and vllm-gaudi of each, and what its series brings",
        )
    ]
    legend = [(f"{letter} {name}", manifest.capabilities[name].summary) for name, letter in letters.items()]
    notes = [(one.id, one.notes) for one in manifest.series if one.notes]
    blocks += [Fields(rows) for rows in (legend, notes) if rows]
    for kind, rules in (("refused", manifest.refused), ("upstream has it", manifest.upstream)):
        if rules:
            listed = [(rule.versions, "; ".join(part for part in (rule.reason, rule.advice) if part)) for rule in rules]
            blocks.append(Table((kind, "why, and what to do"), listed))
    data = {
        "package": manifest.package,
        "series": [
            {
                "id": one.id,
                "versions": one.versions,
                "patches": list(one.patches),
                "capabilities": list(one.capabilities),
                "notes": one.notes,
                "vllm": pairs.vllm(partners[one.id]),
                "vllm_gaudi": pairs.vllm_gaudi(partners[one.id]),
            }
            for one in manifest.series
        ],
        "capabilities": {name: one._asdict() for name, one in manifest.capabilities.items()},
        "refused": [
            {"versions": rule.versions, "reason": rule.reason, "advice": rule.advice} for rule in manifest.refused
        ],
        "upstream": [{"versions": rule.versions, "reason": rule.reason} for rule in manifest.upstream],
        "pairs": [{**pair, "vllm": pairs.vllm([pair["vllm_gaudi"]])} for pair in manifest.pairs],
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
        f"see `gaudi-patch list` for the supported releases{port_hint(verdict)}",
    )
