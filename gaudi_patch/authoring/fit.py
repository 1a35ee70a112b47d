"""`dev lint --wheel FILE`: compare the nearest series with a release that has no series yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.authoring import source, wheels
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import explain, hunks
from gaudi_patch.series.diff import FileDiff, Kind, parse
from gaudi_patch.series.hunks import Hunk
from gaudi_patch.series.manifest import Manifest, Series, default_directory


class HunkFit(NamedTuple):
    """One hunk compared with the wheel. ``state``: fits, obsolete or conflict. ``line``: in the patch."""

    state: str
    patch: str
    file: str
    line: int
    why: str


@dataclass(frozen=True)
class Fit:
    """The nearest series compared with a release's wheel. ``own``: the wheel is a build of the series' own release."""

    directory: Path
    wheel: Path
    version: str
    series: str
    hunks: tuple[HunkFit, ...]

    @property
    def own(self) -> bool:
        return self.series == self.version

    @property
    def counts(self) -> dict[str, int]:
        return {word: sum(hunk.state == word for hunk in self.hunks) for word in ("fits", "obsolete", "conflict")}

    @property
    def exit(self) -> Exit:
        """Return the exit code: refused (1) if any hunk does not fit."""
        return Exit.OK if self.counts["fits"] == len(self.hunks) else Exit.REFUSED


def watch(directory: Path | None, wheel: Path) -> Fit:
    """Report for every hunk whether it still fits the wheel, is obsolete because upstream has it, or conflicts.

    Nothing is written. Raises ``no-wheel``, ``no-series`` (exit 2).
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    version = _version_of(wheel, manifest.package)
    series = manifest.by_id(version) or manifest.nearest(version)
    if series is None:
        raise GaudiPatchError(Exit.USAGE, "no-series", "the manifest has no series to compare it with", "", str(wheel))
    return Fit(directory, wheel, version, series.id, tuple(_hunks(manifest, series, wheel)))


def _version_of(wheel: Path, package: str) -> str:
    parts = wheel.name.split("-")
    if wheel.suffix != ".whl" or len(parts) < 5 or parts[0].lower() != package:
        raise GaudiPatchError(Exit.USAGE, "no-wheel", f"is not a wheel of {package}", "", str(wheel))
    return parts[1]


def _hunks(manifest: Manifest, series: Series, wheel: Path) -> Iterator[HunkFit]:
    contents: dict[str, bytes | None] = {}
    for name in series.patches:
        for change in parse(manifest.read_patch(name), name):
            if change.path not in contents:
                image = wheels.read(wheel, change.path)
                contents[change.path] = image.data if image else None
            current = contents[change.path]
            for hunk, (state, why) in zip(change.hunks, _judge(change, current), strict=True):
                yield HunkFit(state, name, change.path, hunk.line, why)
            contents[change.path] = _after(change, current)


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
        explained = explain.explain(current, hunk)
        state = "obsolete" if explained.already else "conflict"
        return state, " ".join(explained.sentences()[:2])
    return "fits", f"moved by {moved:+d} lines" if moved else ""


def _after(change: FileDiff, current: bytes | None) -> bytes | None:
    """Return the file for the next patches: patched if the hunks fit, else unchanged."""
    if change.kind is Kind.DELETE:
        return None
    try:
        return hunks.apply(current or b"", change.hunks, allow_offset=True)
    except hunks.HunkMismatch:
        return current
