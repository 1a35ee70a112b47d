"""`dev lint`: compare the manifest, the lock and the diffs with the wheels."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FewerHunksOption, FormatOption, JsonOption, ManifestOption, WheelOption
from gaudi_patch.cli.run import finish
from gaudi_patch.output.report import Block, Color, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.authoring.fit import Fit
    from gaudi_patch.authoring.lint import Linted


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
    Wheels are downloaded from PyPI once and kept in GAUDI_PATCH_CACHE (~/.cache/gaudi-patch).
    --write reads only the wheels of changed series. A patch that has lost a hunk is refused.

    --wheel compares the nearest series with a release that has none yet: which hunks still
    fit, which are obsolete because upstream has the change, which conflict.

    Example, after a patch was changed:

        gaudi-patch dev lint --write
    """

    def run() -> Result:
        from gaudi_patch.authoring import fit
        from gaudi_patch.authoring import lint as linting

        if wheel is not None:
            return compared(fit.watch(manifest, wheel))
        return report(linting.lint(manifest, write=write, fewer_hunks=fewer_hunks))

    finish("dev lint", run, output_format, color, as_json)


def report(done: Linted) -> Result:
    """Report the result of comparing the manifest, the patches and the wheels."""
    series = done.manifest.series
    data = {
        "series": [entry.id for entry in series],
        "routing_lines": dict(done.routing_lines),
        "written": done.written,
    }
    if done.fault is not None:
        return Result("dev lint", done.exit, data, errors=[done.fault])
    words = f"wrote {done.file}: {len(series)} series"
    if not done.written:
        words = f"{len(series)} series apply, compile, and match the lock"
    return Result("dev lint", data=data, blocks=[sizes(done), Text(words, "good")])


def sizes(done: Linted) -> Table:
    """Return a table of the lines that each series changes."""
    rows = [
        (series.id, str(len(series.patches)), str(done.routing_lines[series.id])) for series in done.manifest.series
    ]
    return Table(("series", "patches", "lines changed"), rows, "Lines changed in the release's own files")


def compared(fit: Fit) -> Result:
    """Report how the nearest series fits a wheel, hunk by hunk, and the next command."""
    from gaudi_patch.errors import Exit, GaudiPatchError
    from gaudi_patch.series import lock

    data = {
        "version": fit.version,
        "series": fit.series,
        "hunks": [hunk._asdict() for hunk in fit.hunks],
        "counts": fit.counts,
    }
    shown = [(hunk.state, f"{hunk.patch}:{hunk.line}", hunk.file, hunk.why) for hunk in fit.hunks]
    title = f"Series {fit.series} against {fit.wheel.name}"
    blocks: list[Block] = [Table(("hunk", "patch", "file", "why"), shown, title, state_column=0)]
    summary = ", ".join(f"{number} {word}" for word, number in fit.counts.items())
    # A rebuilt wheel of the series' own release is edited, not ported to.
    words = ["edit", fit.version] if fit.own else ["port", fit.series, fit.version]
    command = shlex.join(["gaudi-patch", "dev", *words, "--wheel", str(fit.wheel)]) + lock.option(fit.directory)
    if fit.exit is not Exit.OK:
        what = f"series {fit.series} does not fit {fit.version} unchanged: {summary}"
        fault = GaudiPatchError(fit.exit, "does-not-fit", what, command, str(fit.wheel))
        return Result("dev lint", fit.exit, data, blocks, errors=[fault])
    if fit.own:
        blocks.append(Text(f"{summary}: series {fit.version} applies to this wheel", "good"))
    else:
        blocks += [
            Text(f"{summary}: the port will merge; next:", "good"),
            Text(command, "next", verbatim=True),
        ]
    return Result("dev lint", data=data, blocks=blocks)
