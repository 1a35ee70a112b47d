"""`rollback`: restore the pristine files byte for byte, RECORD and bytecode included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    FormatOption,
    JsonOption,
    LockOption,
    ManifestOption,
    NoLockOption,
    PathOption,
    PythonOption,
    RootOption,
    VerboseOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, finish, target
from gaudi_patch.engine.progress import Progress
from gaudi_patch.output.report import Color, Format, Result, Text
from gaudi_patch.target.installation import Target
from gaudi_patch.target.invocation import command_line

if TYPE_CHECKING:
    from gaudi_patch.engine.rollback import RollbackOptions
    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.target.installation import Installation

app = command_app()


@app.command()
def rollback(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Roll back edited files too, keeping the edited copies.")
    ] = False,
    save_to: Annotated[
        Path, typer.Option("--save-to", metavar="DIR", help="Where --force keeps edited copies.")
    ] = Path(),
    lock_timeout: LockOption = 10.0,
    no_lock: NoLockOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Restore the pristine files, byte for byte.

    RECORD and cached bytecode are restored too.

    Refuses if a patched file was edited since. --force keeps the edited copy as
    NAME.gaudi-patch-saved-HASH in the current directory (--save-to) and restores the pristine file.

    Example:

        gaudi-patch rollback --python /opt/venv/bin/python

    Example, where a patched file was edited since:

        gaudi-patch rollback --python /opt/venv/bin/python --force --save-to /tmp
    """
    progress = Progress()
    check = command_line("check", target=Target(python, path, root), manifest=manifest)

    def run() -> Result:
        from gaudi_patch.engine.rollback import RollbackOptions

        chosen = RollbackOptions(force, save_to, None if no_lock else lock_timeout)
        found = target(python, path, root, manifest)
        return rolled_back(*found, chosen, progress, verbose=detailed(verbose, output_format))

    finish("rollback", run, output_format, color, as_json, progress=progress, check=check)


def rolled_back(
    manifest: Manifest,
    installation: Installation,
    options: RollbackOptions,
    progress: Progress | None = None,
    *,
    verbose: bool = False,
) -> Result:
    """Return the result of `rollback` for ``installation``."""
    from gaudi_patch.commands import describe
    from gaudi_patch.commands.verdict import where
    from gaudi_patch.engine.rollback import rollback

    outcome = rollback(manifest, installation, options, progress)
    result = Result("rollback", data=describe.data(outcome.after), warnings=list(outcome.warnings))
    result.data |= {"changed": outcome.changed, "saved": [str(path) for path in outcome.saved]}
    if not outcome.changed:
        result.blocks.append(Text("nothing is applied; nothing was written", "good"))
        result.blocks += describe.blocks(outcome.after) if verbose else [where(outcome.after)]
        # Whoever expected a patch here may have meant another installation: `check` says what this one is.
        result.blocks.append(Text(f"next: {outcome.after.command('check')}", "next", verbatim=True))
        return result
    result.data["rolled_back"] = outcome.series
    result.blocks.append(Text(f"rolled back series {outcome.series}; verified from disk", "good"))
    result.blocks += describe.blocks(outcome.after) if verbose else [where(outcome.after)]
    result.blocks += [Text(f"saved your edited copy: {path}", verbatim=True) for path in outcome.saved]
    result.blocks.append(Text("next: restart processes that have LMCache loaded", "next"))
    return result
