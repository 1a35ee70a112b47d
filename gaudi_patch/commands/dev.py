"""`dev`: lint, edit, refresh and port, for those who maintain the patches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    FolderArgument,
    FormatOption,
    JsonOption,
    ManifestOption,
    WheelOption,
    command_app,
)
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Color, Format, Result

app = command_app("For those who maintain the patches.")

FewerHunksOption = Annotated[
    bool, typer.Option("--fewer-hunks", help="Accept that a patch has fewer hunks in a file than the lock says.")
]


@app.command()
def lint(
    manifest: ManifestOption = None,
    write: Annotated[bool, typer.Option("--write", help="Renew manifest.lock.")] = False,
    wheel: WheelOption = None,
    fewer_hunks: FewerHunksOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Compare the manifest, the lock and the diffs with the wheels.

    Each series is applied to the wheel of its release in memory, and every result compiled.
    Wheels come from PyPI once and are kept in GAUDI_PATCH_CACHE (~/.cache/gaudi-patch). --write
    reads only those of series that have changed. A patch that has lost a hunk is refused.

    With --wheel the nearest series is compared with a release that has none yet: which hunks still
    fit, which are obsolete since upstream has the change, which conflict.

    Example, after a patch was changed:

        gaudi-patch dev lint --write
    """

    def verb() -> Result:
        from gaudi_patch.authoring.fit import watch
        from gaudi_patch.authoring.lint import lint as run

        if wheel is not None:
            return watch(manifest, wheel)
        return run(manifest, write=write, fewer_hunks=fewer_hunks)

    finish("dev lint", verb, output_format, color, as_json)


@app.command()
def edit(
    version: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="A release with a series.", autocompletion=completion.versions),
    ],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[DIR]", help="A new directory for the worktree (default: lmcache-VERSION-edit)."),
    ] = None,
    manifest: ManifestOption = None,
    wheel: WheelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lay the pristine wheel and one commit per patch into a new git worktree.

    Edit, amend and reorder the commits with git, as quilt and StGit users do; then `dev refresh`
    writes them back as diffs. No installation is touched.

    Example:

        gaudi-patch dev edit 0.5.6 lmcache-0.5.6
    """

    def verb() -> Result:
        from gaudi_patch.authoring.edit import edit as run

        return run(version, folder, manifest, wheel)

    finish("dev edit", verb, Format.TEXT, Color.AUTO, as_json)


@app.command()
def refresh(
    folder: FolderArgument,
    manifest: ManifestOption = None,
    fewer_hunks: FewerHunksOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the commits of a worktree back as diffs, and renew the lock.

    Three lines of context, full blob ids, whatever git is set to. Each commit names its patch by a
    trailer `Patch: NAME`; the names must be those of the series in manifest.toml. The commit of the
    runtime is written back to its sources. Nothing is written unless all series apply and compile.

    Example:

        gaudi-patch dev refresh lmcache-0.5.6
    """

    def verb() -> Result:
        from gaudi_patch.authoring.edit import refresh as run

        return run(folder, manifest, fewer_hunks=fewer_hunks)

    finish("dev refresh", verb, Format.TEXT, Color.AUTO, as_json)


@app.command()
def port(
    versions: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="OLD NEW",
            help="The release to port from, and the one to port to.",
            autocompletion=completion.versions,
        ),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--dir", metavar="DIR", help="A new directory for the worktree (default: lmcache-NEW-port)."),
    ] = None,
    go_on: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--continue", metavar="DIR", help="Go on in DIR after conflicts were resolved."),
    ] = None,
    give_up: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--abort", metavar="DIR", help="Give up the port in DIR."),
    ] = None,
    manifest: ManifestOption = None,
    wheel: WheelOption = None,
    python: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--python", metavar="PYTHON", help="An interpreter with PyTorch, and vLLM, for the smoke checks."),
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="Prove the series before it is written.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Carry a series to a new release by three-way merge, and prove it there.

    Patches that merge are committed; what upstream has already is dropped; a real conflict stops
    with both sides shown. Then the new series is compared with its wheel and put through the smoke
    checks, in a throwaway environment that sees the packages of --python. Only what passes is
    written: patches, series and lock. A patch whose text other releases have stays shared.

    It ends by what the smoke checks did not see: capabilities that no level proved here (those of
    vLLM need an interpreter that has it), calls to a device that are new in the release, patches
    whose remove_when is about other releases.

    Example:

        gaudi-patch dev port 0.5.5 0.5.6 --python /opt/torch/bin/python
    """

    def verb() -> Result:
        from gaudi_patch.authoring import port as porting

        if go_on is not None:
            return porting.proceed(go_on)
        if give_up is not None:
            return porting.abort(give_up)
        if len(versions or ()) != 2:
            raise GaudiPatchError(Exit.USAGE, "usage", "dev port takes OLD and NEW", "gaudi-patch dev port 0.5.5 0.5.6")
        old, new = versions or ("", "")
        return porting.port(old, new, folder, manifest, porting.PortOptions(wheel, smoke, python))

    finish("dev port", verb, Format.TEXT, Color.AUTO, as_json)
