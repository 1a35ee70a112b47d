"""The report at the end of `dev port`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gaudi_patch.authoring import gaps, worktree
from gaudi_patch.authoring.edit import series_of
from gaudi_patch.authoring.patch_names import Named
from gaudi_patch.authoring.prove import PortProof
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Block, Result, Table, Text
from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke import rendering
from gaudi_patch.smoke.outcome import LevelResult

if TYPE_CHECKING:
    import git


def report(
    repo: git.Repo,
    plan: Mapping[str, Any],
    named: Sequence[Named],
    drafted: Manifest,
    lines: int,
    proved: PortProof,
) -> Result:
    """Describe the series of a finished port: its patches, the smoke checks, and what these did not see."""
    rows = [_row(naming) for naming in named]
    rows += [(name, "obsolete", "upstream has the change") for name in plan["dropped"]]
    seconds = time.time() - plan["started"]
    title = f"Series {plan['new']}, ported from {plan['old']}: {lines} lines of the release changed"
    blocks: list[Block] = [Table(("patch", "is", "since"), rows, title)]
    smoked, fault = proved.levels, proved.fault
    passed = sum(level.status == "passed" for level in smoked)
    if smoked:
        blocks += rendering.blocks(smoked)  # how it was applied is of no interest here
    if fault is None:
        skipped = sum(level.status == "skipped" for level in smoked)
        checks = f"{passed} of {len(smoked)} smoke checks passed" if smoked else "no smoke check was run"
        checks += f", {skipped} could not be run" if skipped else ""
        blocks += [
            Text(f"{checks}; {seconds:.0f} s since the port began", "good" if passed else "bad"),
        ]
    data = {
        "series": plan["new"],
        "patches": [naming.patch for naming in named],
        "new": sorted(naming.patch for naming in named if naming.new),
        "dropped": plan["dropped"],
        "routing_lines": lines,
        "smoke": [rendering.data(level) for level in smoked],
        "seconds": seconds,
    }
    result = Result("dev port", fault.exit if fault else Exit.OK, data, blocks, errors=[fault] if fault else [])
    result.warnings += proved.warnings
    _look_at(result, repo, drafted, plan["new"], smoked)
    return result


def _row(naming: Named) -> tuple[str, str, str]:
    """Return the row of a patch: its name, whether it is new, and why."""
    if naming.new is None:
        return naming.patch, "shared", "the text is as in other releases"
    if naming.patch == naming.new.source:
        return naming.patch, "changed", "in every series: all of them are to be proved again"
    return naming.patch, "new", f"from {naming.new.source}" if naming.new.source else naming.subject


def _look_at(result: Result, repo: git.Repo, drafted: Manifest, release: str, smoked: Sequence[LevelResult]) -> None:
    """Add to ``result`` what the smoke checks did not see, before what is to be done next."""
    series = series_of(drafted.series, release)
    unseen = gaps.gaps([drafted.capabilities[name] for name in series.capabilities], smoked)
    old = repo.git.rev_list("--max-parents=0", worktree.PRISTINE)
    calls = gaps.device_calls(repo, old, worktree.PRISTINE)
    stale = gaps.outdated([drafted.patches[name] for name in series.patches], release)
    result.data["unproved"] = [gap._asdict() for gap in unseen]
    result.data["device_calls"] = [call._asdict() for call in calls]
    result.data["remove_when_outdated"] = stale
    result.blocks += gaps.blocks(unseen, calls, stale)
    if result.exit is Exit.OK:
        partners = pairs.vllm_gaudi(pairs.fitting(drafted, release))
        result.blocks.append(
            Text(
                f"next: look at these, at its capabilities and its pairs (vllm-gaudi {partners}), in manifest.toml",
                "next",
            )
        )
