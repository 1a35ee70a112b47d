"""`apply`: apply the series for an installation, and prove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    IfInstalledOption,
    JsonOption,
    LockOption,
    ManifestOption,
    NoLockOption,
    PathOption,
    PythonOption,
    ReportOption,
    RequireOption,
    RootOption,
    TimeoutOption,
    VerboseOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, exclude, finish, smoke_options, target
from gaudi_patch.engine.progress import Progress, Stage
from gaudi_patch.output.report import Color, Diff, Format, Result, Text
from gaudi_patch.target.installation import Target
from gaudi_patch.target.invocation import command_line

if TYPE_CHECKING:
    from pathlib import Path

    from gaudi_patch.attestation.prove import ProvedApply
    from gaudi_patch.disk import FileImage
    from gaudi_patch.engine.apply import ApplyOptions
    from gaudi_patch.engine.plan import Plan, PlannedFile
    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.smoke.checks import SmokeOptions
    from gaudi_patch.target.installation import Installation

app = command_app()


@app.command()
def apply(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Plan and check, but write nothing.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Also print what changes, as one unified diff.")] = False,
    allow_offset: Annotated[
        bool, typer.Option("--allow-offset", help="Unknown version: try the nearest series, exact context, no fuzz.")
    ] = False,
    smoke: Annotated[
        str,
        typer.Option(
            "--smoke",
            metavar="LEVELS",
            help="Smoke levels to run after applying.",
            autocompletion=completion.levels,
        ),
    ] = "imports,kernels,engine",
    no_smoke: Annotated[bool, typer.Option("--no-smoke", help="Run no smoke checks.")] = False,
    require: RequireOption = "",
    device: DeviceOption = "auto",
    timeout: TimeoutOption = 300.0,
    report: ReportOption = None,
    lock_timeout: LockOption = 10.0,
    no_lock: NoLockOption = False,
    verbose: VerboseOption = False,
    if_installed: IfInstalledOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Apply the series for the installed version: all files, or none.

    The whole result is computed in memory and compared with the lock before anything is
    written. Files are backed up, replaced atomically and recorded in RECORD; their bytecode is
    recompiled, and everything is read back. The next run undoes one that was killed.

    Then smoke checks prove it, on an HPU or on the emulated HPU. If one fails, everything is
    rolled back and the exit code is 5. A level that cannot run is skipped, with the reason:
    --require LEVEL makes that a failure.

    Applying again writes nothing and exits 0; with --require the smoke checks still run.

    --report FILE attests what is on disk afterwards: versions, patches, the sha256 of each file
    before and after, capabilities, smoke results. `check --against FILE` verifies it.

    Example, in a Dockerfile, in the same RUN as the installation:

        gaudi-patch apply --python /opt/venv/bin/python

    Example, in a build that must fail without proof, with an attestation:

        gaudi-patch apply --require kernels,engine --report /etc/gaudi-patch.json

    Example, to see what it would do:

        gaudi-patch apply --dry-run --diff
    """
    progress = Progress()
    check = command_line("check", target=Target(python, path, root), manifest=manifest)

    def run() -> Result:
        from gaudi_patch.engine.apply import ApplyOptions

        checks = None if no_smoke or dry_run else smoke_options(smoke, device, "lazy,eager", require, timeout)
        chosen = ApplyOptions(dry_run, allow_offset, None if no_lock else lock_timeout)
        if report is not None:
            exclude("--report", "--if-installed", if_installed)
            exclude("--report", "--dry-run", dry_run)
        found = target(python, path, root, manifest)
        shown = detailed(verbose, output_format)
        return applied(*found, chosen, checks, progress, diff=diff, report=report, verbose=shown)

    finish("apply", run, output_format, color, as_json, if_installed, progress=progress, check=check)


def applied(
    manifest: Manifest,
    installation: Installation,
    options: ApplyOptions,
    smoke: SmokeOptions | None = None,
    progress: Progress | None = None,
    *,
    diff: bool = False,
    report: Path | None = None,
    verbose: bool = False,
) -> Result:
    """Return the result of `apply` for ``installation``; ``smoke`` also proves it, ``report`` also attests it."""
    if report is not None:
        from gaudi_patch.attestation.attest import apply_and_attest

        proved = apply_and_attest(manifest, installation, options, smoke, report, progress)
    else:
        from gaudi_patch.attestation.prove import apply_and_prove

        proved = apply_and_prove(manifest, installation, options, smoke, progress)
    result = rendered(proved, diff=diff, verbose=verbose)
    result.warnings += _mismatch(manifest, installation)
    return result


def _mismatch(manifest: Manifest, installation: Installation) -> list[str]:
    """Return a warning if LMCache does not go with the vllm-gaudi beside it: the levels that run here cannot see that.

    The name of its directory of metadata is enough; none of its files is opened.
    """
    from gaudi_patch.series import pairs
    from gaudi_patch.target.packages import find

    plugin = find([str(installation.root)]).get("vllm-gaudi")
    told = pairs.mismatch(manifest, installation.version, plugin.named, installation.root) if plugin else None
    return [told] if told else []


def rendered(proved: ProvedApply, *, diff: bool, verbose: bool = False) -> Result:
    """Return text and JSON of what `apply` did; both describe the installation's current state.

    The order is: what was done, where, the diff, the smoke checks, what to do next.
    """
    from gaudi_patch.attestation.prove import skipped_warning
    from gaudi_patch.commands import describe
    from gaudi_patch.commands import levels as rendering
    from gaudi_patch.commands.verdict import where
    from gaudi_patch.engine.outcome import Done

    outcome, now = proved.outcome, proved.now
    result = Result("apply", proved.exit, warnings=list(proved.warnings))
    result.data = {**describe.data(now), "changed": proved.changed, "stage": proved.stage.value}
    if proved.fault is None:
        result.blocks.append(Text(_done(proved), "good"))
    else:
        word = "rolled back" if proved.stage is Stage.ROLLED_BACK else "left as it was"
        result.blocks.append(Text(f"series {outcome.series} was not proved; {word}", "bad"))
    if verbose and outcome.done is not Done.NOT_NEEDED:
        result.blocks += describe.blocks(now)
    else:
        result.blocks.append(where(now))
    if outcome.plan is not None:
        result.data["planned"] = [_planned(file) for file in outcome.plan.files]
        if diff:
            result.blocks.append(Diff(unified(outcome.plan)))
    if outcome.done is Done.ALREADY and diff:
        result.blocks.append(Text("no difference"))
    if proved.levels is not None:
        result.data["smoke"] = [rendering.data(level) for level in proved.levels]
        result.blocks += rendering.blocks(proved.levels, verbose=verbose, fault=proved.fault)
        result.said = [skipped_warning(level) for level in proved.levels if level.status == "skipped"]
    if proved.attested is not None:
        attested = proved.attested
        result.data["report"] = {"path": str(attested.path), "sha256": attested.sha256}
        result.blocks.append(Text(f"attested in {attested.path}", "good", verbatim=True))
    if proved.fault is not None:
        result.errors = [proved.fault]
    elif proved.changed:
        result.blocks.append(Text("next: restart processes that have LMCache loaded", "next"))
    elif outcome.done is Done.WOULD_APPLY:
        result.blocks.append(Text(f"next: {now.command('apply')}", "next", verbatim=True))
    elif outcome.done is Done.ALREADY:
        result.blocks.append(Text(f"next: {now.command('doctor')}", "next", verbatim=True))
    return result


def _done(proved: ProvedApply) -> str:
    from gaudi_patch.engine.outcome import Done

    outcome = proved.outcome
    if proved.accepted:
        how = "proved now" if proved.levels else "accepted as it is: no proof was requested"
        return f"series {outcome.series}, which an earlier run left unproved, is {how}"
    if outcome.done is Done.ALREADY and outcome.after.built is not None:
        return f"nothing to do: the wheel was built with series {outcome.series}; nothing was written"
    return {
        Done.NOT_NEEDED: f"nothing to do: {outcome.after.verdict.reason}",
        Done.ALREADY: f"series {outcome.series} is already applied; nothing was written",
        Done.WOULD_APPLY: f"would apply series {outcome.series}; nothing was written",
        Done.APPLIED: f"applied series {outcome.series}; verified from disk{_proof(proved)}",
    }[outcome.done]


def _proof(proved: ProvedApply) -> str:
    levels = proved.levels or ()
    passed = sum(level.status == "passed" for level in levels)
    if passed:
        skipped = sum(level.status == "skipped" for level in levels)
        if skipped:
            return f", and proved in part: {passed} of {len(levels)} smoke checks passed, {skipped} could not run"
        return f", and proved: {passed} of {len(levels)} smoke checks passed"
    return ", but not proved: every smoke check was skipped" if levels else ", but not proved: no smoke check was run"


def _planned(file: PlannedFile) -> dict[str, str | None]:
    return {
        "path": file.path,
        "action": "create" if file.before is None else "delete" if file.after is None else "modify",
        "pre_sha256": file.before.sha256 if file.before else None,
        "post_sha256": file.after.sha256 if file.after else None,
    }


def unified(plan: Plan) -> str:
    """Return the plan as one unified diff for people: the actual change, not the text of the patches."""
    import difflib

    def lines(image: FileImage | None) -> list[str]:
        return image.data.decode("utf-8", "backslashreplace").splitlines(keepends=True) if image else []

    out: list[str] = []
    for file in plan.files:
        old = f"a/{file.path}" if file.before else "/dev/null"
        new = f"b/{file.path}" if file.after else "/dev/null"
        for line in difflib.unified_diff(lines(file.before), lines(file.after), old, new):
            out.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(out)
