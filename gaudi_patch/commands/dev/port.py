"""`dev port`: carry a series to a new release."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import ColorOption, JsonOption, ManifestOption, WheelOption
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Color, Diff, Format, Preformatted, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.authoring.gaps import Call, Gap
    from gaudi_patch.authoring.patch_names import Named
    from gaudi_patch.authoring.port import Conflict, Ported

SHOWN = 12  # calls; the JSON has all


def port(
    versions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OLD NEW",
            help="The release to port from, and the one to port to.",
            autocompletion=completion.versions,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="A new directory for the worktree (default: lmcache-NEW-port)."),
    ] = None,
    go_on: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            metavar="DIR",
            help="Continue in DIR after resolving conflicts, with the options the port began with; takes no others.",
        ),
    ] = None,
    give_up: Annotated[
        Path | None,
        typer.Option("--abort", metavar="DIR", help="Abandon the port in DIR."),
    ] = None,
    manifest: ManifestOption = None,
    wheel: WheelOption = None,
    python: Annotated[
        Path | None,
        typer.Option("--python", metavar="PYTHON", help="An interpreter with PyTorch, and vLLM, for the smoke checks."),
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="Prove the series before it is written.")] = True,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Carry a series to a new release by three-way merge, and prove it there.

    Patches that merge are committed, and changes that upstream already has are dropped. A real
    conflict stops the port and shows both sides. Then the new series is compared with its wheel,
    and the smoke checks run in a throwaway environment with the packages of --python. If one fails,
    nothing is written: no patch, no series, no lock. A patch with the same text as in other
    releases stays shared.

    At the end it lists what no smoke check covered: capabilities that no level proved (those of
    vLLM need an interpreter that has it), device calls that are new in the release, and patches
    whose remove_when names other releases.

    Example:

        gaudi-patch dev port 0.5.5 0.5.6 --python /opt/torch/bin/python
    """

    def run() -> Result:
        from gaudi_patch.authoring import port as porting

        if go_on is not None or give_up is not None:
            others = {"OLD NEW": versions, "--dir": folder, "--wheel": wheel}
            _alone(go_on, give_up, {**others, "--python": python, "--no-smoke": not smoke})
        if go_on is not None:
            return report(porting.proceed(go_on))
        if give_up is not None:
            porting.abort(give_up)
            return aborted(give_up)
        if len(versions or ()) != 2:
            raise GaudiPatchError(Exit.USAGE, "usage", "dev port needs OLD and NEW", _example(manifest))
        old, new = versions or ("", "")
        return report(porting.port(old, new, folder, manifest, porting.PortOptions(wheel, smoke, python)))

    finish("dev port", run, Format.TEXT, color, as_json)


def _alone(go_on: Path | None, give_up: Path | None, others: dict[str, object]) -> None:
    """Refuse what a port that has begun would not take any more."""
    chosen = [f"--{name} {shlex.quote(str(path))}" for name, path in (("continue", go_on), ("abort", give_up)) if path]
    given = [name for name, value in others.items() if value]
    if len(chosen) == 1 and not given:
        return
    unwanted = ", ".join([*(line.split()[0] for line in chosen[1:]), *given])
    text = f"{chosen[0].split()[0]} keeps the options that the port began with, and takes no {unwanted}"
    raise GaudiPatchError(Exit.USAGE, "usage", text, f"gaudi-patch dev port {chosen[0]}")


def _example(manifest: Path | None) -> str:
    from gaudi_patch.series.manifest import load

    newest = load(manifest).series[0].id
    return f"gaudi-patch dev port {newest} NEW"


def aborted(folder: Path) -> Result:
    """Report a port that was abandoned."""
    text = f"aborted; nothing was written to the patches, {shlex.quote(str(folder))} can be removed"
    return Result("dev port", blocks=[Text(text, "good")])


def report(outcome: Ported | Conflict) -> Result:
    """Report a port that finished, or stopped at a conflict."""
    from gaudi_patch.authoring.port import Conflict

    return _conflict(outcome) if isinstance(outcome, Conflict) else _ported(outcome)


def _conflict(conflict: Conflict) -> Result:
    plan = conflict.plan
    data = {
        "conflict": conflict.patch,
        "files": list(conflict.files),
        "merged": list(conflict.merged),
        "dropped": plan.dropped,
    }
    sides = (
        f"HEAD is {plan.new} with the patches so far, the parent is {plan.old} before the patch, "
        f"the other side is the patch. Merged: {len(conflict.merged)}; still to come: {len(plan.todo) - 1}."
    )
    if conflict.gone:
        sides += (
            f" {plan.new} no longer has {', '.join(conflict.gone)}: `git rm` it, and check whether the change now "
            f"belongs elsewhere."
        )
    return Result("dev port", conflict.exit, data, [Diff(conflict.diff), Text(sides)], errors=[conflict.fault])


def _ported(done: Ported) -> Result:
    from gaudi_patch.attestation.prove import skipped_warning
    from gaudi_patch.commands import levels
    from gaudi_patch.series import pairs

    plan, smoked, fault = done.plan, done.proof.levels, done.proof.fault
    rows = [_row(naming) for naming in done.named]
    rows += [(name, "obsolete", "upstream has the change") for name in plan.dropped]
    title = f"Series {plan.new}, ported from {plan.old}: {done.lines} lines of the release changed"
    blocks: list[Block] = [Table(("patch", "is", "since"), rows, title)]
    if smoked:
        some = any(level.status != "skipped" for level in smoked)
        blocks += levels.blocks(smoked, verbose=some)  # how the series was applied does not matter here
    if fault is None:
        blocks.append(_summary(done))
    blocks += to_look_at(done.unproved, done.calls, done.stale)
    if fault is None:
        partners = pairs.vllm_gaudi(pairs.fitting(done.drafted, plan.new))
        text = f"next: look at these, at its capabilities and its pairs (vllm-gaudi {partners}), in manifest.toml"
        blocks.append(Text(text, "next"))
    data: dict[str, Any] = {
        "series": plan.new,
        "patches": [naming.patch for naming in done.named],
        "new": sorted(naming.patch for naming in done.named if naming.new),
        "dropped": plan.dropped,
        "routing_lines": done.lines,
        "smoke": [levels.data(level) for level in smoked],
        "seconds": done.seconds,
        "unproved": [gap._asdict() for gap in done.unproved],
        "device_calls": [call._asdict() for call in done.calls],
        "remove_when_outdated": list(done.stale),
    }
    errors = [fault] if fault else []
    warnings = [*done.proof.warnings]
    said = [skipped_warning(level) for level in smoked if level.status == "skipped"]
    return Result("dev port", done.exit, data, blocks, warnings, errors, said=said)


def _summary(done: Ported) -> Text:
    smoked = done.proof.levels
    passed = sum(level.status == "passed" for level in smoked)
    skipped = sum(level.status == "skipped" for level in smoked)
    checks = f"{passed} of {len(smoked)} smoke checks passed" if smoked else "no smoke check was run"
    checks += f", {skipped} could not be run" if skipped else ""
    return Text(f"{checks}; {done.seconds:.0f} s since the port began", "good" if passed else "bad")


def _row(naming: Named) -> tuple[str, str, str]:
    """Return the row of a patch: its name, whether it is new, and why."""
    if naming.new is None:
        return naming.patch, "shared", "the patch is the same as in other releases"
    if naming.patch == naming.new.source:
        return naming.patch, "changed", "used by every series: all of them must be proved again"
    return naming.patch, "new", f"from {naming.new.source}" if naming.new.source else naming.subject


def to_look_at(gaps: Sequence[Gap], calls: Sequence[Call], stale: Sequence[str]) -> list[Block]:
    """Return what a maintainer has to review; may be empty."""
    blocks: list[Block] = []
    if gaps:
        title = "Claimed by the old series, but not proved here"
        blocks.append(Table(("capability", "why"), [(gap.capability, str(gap)) for gap in gaps], title))
    if calls:
        more = f"; the first {SHOWN} of {len(calls)}, all with --json" if len(calls) > SHOWN else ""
        lines = "\n".join(f"  {call.file}:{call.line}: {call.text}" for call in calls[:SHOWN])
        blocks.append(Text(f"Device calls that are new in this release{more}:"))
        blocks.append(Preformatted(lines))
    if stale:
        blocks.append(Text(f"remove_when names other releases: {', '.join(stale)}", "next"))
    return blocks
