"""The options of `apply`."""

from __future__ import annotations

from typing import Annotated

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
    verb_app,
)
from gaudi_patch.cli.run import exclude, finish, smoke_options, target
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def apply(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Do everything but write.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Also print what changes, as one unified diff.")] = False,
    allow_offset: Annotated[
        bool, typer.Option("--allow-offset", help="Unknown version: try the nearest series, exact context, no fuzz.")
    ] = False,
    smoke: Annotated[
        str,
        typer.Option(
            "--smoke",
            metavar="LEVELS",
            help="Smoke levels to run after it.",
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
    if_installed: IfInstalledOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Apply the series for the installed version: all files, or none.

    The whole result is computed in memory and held against the lock before anything is
    written; files are replaced atomically, backed up, recorded in RECORD, their bytecode
    renewed, and everything is read back. A killed run is undone by the next one.

    Then smoke checks prove it, on an HPU or on the emulated HPU. If one fails, everything is
    rolled back and the exit code is 5. A level that cannot run is skipped, with the reason:
    --require LEVEL makes that a failure.

    Applying again writes nothing and exits 0; with --require the smoke checks run all the same.

    --report FILE attests what is on disk afterwards: versions, patches, the sha256 of each file
    before and after, capabilities, what the smoke checks proved. `check --against FILE` verifies it.

    Example, in a Dockerfile, in the same RUN as the installation:

        gaudi-patch apply --python /opt/venv/bin/python

    Example, in a build that must not go on unproved, attested:

        gaudi-patch apply --require kernels,engine --report /etc/gaudi-patch.json

    Example, to see what it would do:

        gaudi-patch apply --dry-run --diff
    """

    def verb() -> Result:
        from gaudi_patch.engine.apply import Options
        from gaudi_patch.engine.apply import apply as run

        checks = None if no_smoke or dry_run else smoke_options(smoke, device, "lazy,eager", require, timeout)
        chosen = Options(dry_run, diff, allow_offset, None if no_lock else lock_timeout, smoke=checks)
        if report is not None:
            from gaudi_patch.attestation.attest import apply_and_attest

            exclude("--report", "--if-installed", if_installed)
            exclude("--report", "--dry-run", dry_run)
            return apply_and_attest(*target(python, path, root, manifest), chosen, report)
        return run(*target(python, path, root, manifest), chosen)

    finish("apply", verb, output_format, color, as_json, if_installed)
