"""`dev edit` and `dev refresh`: turn a series into commits, and the commits back into a series."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    FewerHunksOption,
    FolderArgument,
    JsonOption,
    ManifestOption,
    WheelOption,
)
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Color, Format, Result, Text

if TYPE_CHECKING:
    from gaudi_patch.authoring.edit import Refreshed, Worktree


def edit(
    version: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="A release with a series.", autocompletion=completion.versions),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="A new directory for the worktree (default: lmcache-VERSION-edit)."),
    ] = None,
    manifest: ManifestOption = None,
    wheel: WheelOption = None,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Create a git worktree with the pristine wheel and one commit per patch.

    Edit, amend and reorder the commits with git, as quilt and StGit users do. Then `dev refresh`
    writes them back as diffs. No installation is touched.

    Example:

        gaudi-patch dev edit 0.5.6 lmcache-0.5.6
    """

    def run() -> Result:
        from gaudi_patch.authoring import edit as editing

        return laid(editing.edit(version, folder, manifest, wheel))

    finish("dev edit", run, Format.TEXT, color, as_json)


def refresh(
    folder: FolderArgument,
    manifest: ManifestOption = None,
    fewer_hunks: FewerHunksOption = False,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Write the commits of a worktree back as diffs, and renew the lock.

    Diffs have three lines of context and full blob ids, whatever git's settings. Each commit names
    its patch in a trailer `Patch: NAME`; the names must match the series in manifest.toml. The
    runtime's commit is written back to its source files. Nothing is written unless all series apply and compile.

    Example:

        gaudi-patch dev refresh lmcache-0.5.6
    """

    def run() -> Result:
        from gaudi_patch.authoring import edit as editing

        return refreshed(editing.refresh(folder, manifest, fewer_hunks=fewer_hunks))

    finish("dev refresh", run, Format.TEXT, color, as_json)


def laid(made: Worktree) -> Result:
    """Report a new worktree, and how to write its commits back."""
    from gaudi_patch.authoring.worktree import PRISTINE
    from gaudi_patch.series import lock

    series = made.series
    data = {"folder": str(made.folder.resolve()), "series": series.id, "patches": list(series.patches)}
    command = f"gaudi-patch dev refresh {shlex.quote(str(made.folder.absolute()))}{lock.option(made.directory)}"
    return Result(
        "dev edit",
        data=data,
        blocks=[
            Text(f"{made.folder}: LMCache {series.id} with {len(series.patches)} commits", "good"),
            Text(f"next: edit and amend (git rebase -i {PRISTINE}), then write it back:", "next"),
            Text(command, "next", verbatim=True),
        ],
    )


def refreshed(done: Refreshed) -> Result:
    """Report the patches that were written, and the state of the manifest."""
    from gaudi_patch.commands.dev.lint import report, sizes

    result = report(done.linted)
    result.command = "dev refresh"
    result.data["patches_written"] = list(done.written)
    words = f"{done.linted.file}: {len(done.linted.manifest.series)} series apply and compile"
    wrote = f"wrote {', '.join(done.written)}" if done.written else "no patch changed"
    result.blocks = [Text(wrote), sizes(done.linted), Text(words, "good")]
    return result
