"""The options of `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    verb_app,
)
from gaudi_patch.cli.run import finish, target
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def rollback(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where files were edited; keeps the edited copies.")
    ] = False,
    save_to: Annotated[
        Path, typer.Option("--save-to", metavar="DIR", help="Where --force keeps edited copies.")
    ] = Path(),
    lock_timeout: LockOption = 10.0,
    no_lock: NoLockOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Restore the pristine files, byte for byte.

    RECORD and cached bytecode are restored too.

    Refuses when a patched file was edited since; --force keeps the edited copy as
    NAME.gaudi-patch-saved-HASH in the current folder (--save-to) and restores the pristine file.

    Example:

        gaudi-patch rollback --python /opt/venv/bin/python

    Example, where a patched file was edited since:

        gaudi-patch rollback --python /opt/venv/bin/python --force --save-to /tmp
    """

    def verb() -> Result:
        from gaudi_patch.engine.rollback import Options
        from gaudi_patch.engine.rollback import rollback as run

        return run(*target(python, path, root, manifest), Options(force, save_to, None if no_lock else lock_timeout))

    finish("rollback", verb, output_format, color, as_json)
