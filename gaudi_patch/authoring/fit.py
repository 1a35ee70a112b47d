"""`dev lint --wheel FILE`: compare the nearest series with a release that has none yet."""

from __future__ import annotations

import shlex
from pathlib import Path

from gaudi_patch.authoring import source, wheels
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Table, Text
from gaudi_patch.series import explain, hunks, lock, patch_files
from gaudi_patch.series.diff import FileDiff, Kind, parse
from gaudi_patch.series.hunks import Hunk
from gaudi_patch.series.manifest import Manifest, Series, default_directory


def watch(directory: Path | None, wheel: Path) -> Result:
    """Report for every hunk whether it still fits the wheel, is obsolete since upstream has it, or conflicts.

    Exit 0 when all fit, 1 when there is anything to do. Nothing is written.
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    version = _version_of(wheel, manifest.package)
    series = manifest.by_id(version) or manifest.nearest(version)
    if series is None:
        raise GaudiPatchError(Exit.USAGE, "no-series", "the manifest has no series to hold against it", "", str(wheel))
    rows = _rows(manifest, series, wheel)
    counts = {word: sum(row[0].startswith(word) for row in rows) for word in ("fits", "obsolete", "conflict")}
    data = {
        "version": version,
        "series": series.id,
        "hunks": [
            {"state": state, "patch": patch, "file": path, "line": line, "why": why}
            for state, patch, path, line, why in rows
        ],
        "counts": counts,
    }
    title = f"Series {series.id} against {wheel.name}"
    shown = [(state, f"{patch}:{line}", path, why) for state, patch, path, line, why in rows]
    result = Result(
        "dev lint", data=data, blocks=[Table(("hunk", "patch", "file", "why"), shown, title, state_column=0)]
    )
    summary = ", ".join(f"{number} {word}" for word, number in counts.items())
    own = series.id == version  # a wheel that was built anew
    words = ["edit", version] if own else ["port", series.id, version]
    command = shlex.join(["gaudi-patch", "dev", *words, "--wheel", str(wheel)]) + lock.option(directory)
    if counts["fits"] == len(rows):
        if own:
            result.blocks.append(Text(f"{summary}: series {version} applies to this wheel", "good"))
        else:
            result.blocks.append(Text(f"{summary}: the port will merge; next:", "good"))
            result.blocks.append(Text(command, "next", verbatim=True))
        return result
    result.exit = Exit.REFUSED
    fault = GaudiPatchError(
        Exit.REFUSED,
        "does-not-fit",
        f"series {series.id} does not fit {version} as it is: {summary}",
        command,
        str(wheel),
    )
    result.errors.append(fault)
    return result


def _version_of(wheel: Path, package: str) -> str:
    parts = wheel.name.split("-")
    if wheel.suffix != ".whl" or len(parts) < 5 or parts[0].lower() != package:
        raise GaudiPatchError(Exit.USAGE, "no-wheel", f"is no wheel of {package}", "", str(wheel))
    return parts[1]


def _rows(manifest: Manifest, series: Series, wheel: Path) -> list[tuple[str, str, str, int, str]]:
    """Return per hunk: state, patch, file, line in the patch, reason."""
    rows = []
    contents: dict[str, bytes | None] = {}
    for name in series.patches:
        for change in parse(patch_files.read(manifest.directory, name), name):
            if change.path not in contents:
                image = wheels.read(wheel, change.path)
                contents[change.path] = image.data if image else None
            current = contents[change.path]
            for hunk, (state, why) in zip(change.hunks, _judge(change, current), strict=True):
                rows.append((state, name, change.path, hunk.line, why))
            contents[change.path] = _after(change, current)
    return rows


def _judge(change: FileDiff, current: bytes | None) -> list[tuple[str, str]]:
    if change.kind is Kind.CREATE:
        if current is None:
            return [("fits", "")] * len(change.hunks)
        same = current == b"".join(change.hunks[0].new) if change.hunks else not current
        return [
            ("obsolete", "the release has the same file") if same else ("conflict", "the release has such a file")
        ] * len(change.hunks)
    if current is None:
        return [("conflict", "the release no longer has this file")] * len(change.hunks)
    return [_judge_hunk(current, hunk) for hunk in change.hunks]


def _judge_hunk(current: bytes, hunk: Hunk) -> tuple[str, str]:
    try:
        moved = hunks.offsets(current, [hunk])[0]
        hunks.apply(current, [hunk], allow_offset=True)
    except hunks.HunkMismatch:
        found = explain.explain(current, hunk)
        state = "obsolete" if found.already else "conflict"
        return state, " ".join(found.sentences()[:2])
    return "fits", f"moved by {moved:+d} lines" if moved else ""


def _after(change: FileDiff, current: bytes | None) -> bytes | None:
    """Return the file as the next patches meet it: patched if the hunks fit, else as it is."""
    if change.kind is Kind.DELETE:
        return None
    try:
        return hunks.apply(current or b"", change.hunks, allow_offset=True)
    except hunks.HunkMismatch:
        return current
