"""Options in, one Result out; the only place that exits.

Everything heavy is imported inside the verbs: start-up decides how a command feels, and how completion does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.report import Color, Format, Result

if TYPE_CHECKING:
    from gaudi_patch.commands.smoke import Options as SmokeOptions
    from gaudi_patch.locate import Installation
    from gaudi_patch.manifest import Manifest

EXIT_CODES = """
Exit codes: 0 the asked-for state holds - 1 refused (drift, conflict) - 2 usage, bad manifest or patch -
3 not installed, unknown or refused version - 4 environment (not writable, no space, locked) -
5 smoke failed, rolled back - 6 a human is needed - 10 (check) a series would apply - 70 a bug.
"""

DEVICES = ("auto", "hpu", "emulated")
RULES = ("lazy", "eager")

app = typer.Typer(
    name="gaudi-patch",
    help="Patch an installed LMCache for Intel Gaudi: check, apply, roll back, and prove it.\n\n" + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# Optional[...]: typer reads annotations at run time, and Python 3.10 must read them too.
PythonOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--python", metavar="PYTHON", help="The target's interpreter, e.g. /opt/venv/bin/python."),
]
PathOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--path", metavar="DIR", help="A site-packages folder, or a git checkout of LMCache."),
]
RootOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--root", metavar="DIR", help="The root of an unpacked image; nothing in it is run."),
]
ManifestOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--manifest", metavar="DIR", help="A folder with manifest.toml in place of the built-in one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object (schema_version 1) on stdout.")]
FormatOption = Annotated[
    Format, typer.Option("--output-format", help="github adds annotations and a job summary.", show_default=True)
]
ColorOption = Annotated[Color, typer.Option("--color", help="NO_COLOR and FORCE_COLOR are honoured.")]
IfInstalledOption = Annotated[bool, typer.Option("--if-installed", help="Exit 0 when LMCache is not installed.")]
LockOption = Annotated[
    float, typer.Option("--lock-timeout", metavar="SECONDS", min=0.0, help="How long to wait for another run.")
]

DeviceOption = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, hpu or emulated.")]
RequireOption = Annotated[
    str, typer.Option("--require", metavar="LEVELS", help="Levels that must not be skipped, e.g. kernels,engine.")
]
TimeoutOption = Annotated[
    float, typer.Option("--smoke-timeout", metavar="SECONDS", min=1.0, help="For each smoke level.")
]

WheelOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--wheel", metavar="FILE", help="The release's wheel, where PyPI is not to be asked."),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The worktree.")]


def _version(value: bool) -> None:
    if value:
        from gaudi_patch.commands.version import version_text

        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def check(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    if_installed: IfInstalledOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Say what is installed, which series fits, and the state of each file.

    Changes nothing and works on read-only media. The state of a file is decided by its
    sha256 alone: pristine, patched, modified or missing.

    Exits 0 when the series is applied (or none is needed), 10 when it would apply,
    1 when files differ from both the release and the series, 3 when the version has no series.

    Example, as a step of an image build that must not go on unpatched:

        gaudi-patch check --python /opt/venv/bin/python
    """

    def verb() -> Result:
        from gaudi_patch.commands.check import check as run

        return run(*_target(python, path, root, manifest))

    _finish("check", verb, output_format, color, as_json, if_installed)


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
        typer.Option("--smoke", metavar="LEVELS", help="Smoke levels to run after it, e.g. imports,kernels,engine."),
    ] = "imports,kernels,engine",
    no_smoke: Annotated[bool, typer.Option("--no-smoke", help="Run no smoke checks.")] = False,
    require: RequireOption = "",
    device: DeviceOption = "auto",
    timeout: TimeoutOption = 300.0,
    lock_timeout: LockOption = 10.0,
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

    Applying again writes nothing and exits 0.

    Example, in a Dockerfile, in the same RUN as the installation:

        gaudi-patch apply --python /opt/venv/bin/python
    """

    def verb() -> Result:
        from gaudi_patch.commands.apply import Options
        from gaudi_patch.commands.apply import apply as run

        checks = None if no_smoke or dry_run else _smoke_options(smoke, device, "lazy,eager", require, timeout)
        chosen = Options(dry_run, diff, allow_offset, lock_timeout, smoke=checks)
        return run(*_target(python, path, root, manifest), chosen)

    _finish("apply", verb, output_format, color, as_json, if_installed)


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
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Restore the pristine files, byte for byte, RECORD and bytecode included.

    Refuses when a patched file was edited since; --force keeps the edited copy as
    NAME.gaudi-patch-saved-HASH in the current folder (--save-to) and restores the pristine file.

    Example:
        gaudi-patch rollback --python /opt/venv/bin/python

    """

    def verb() -> Result:
        from gaudi_patch.commands.rollback import Options
        from gaudi_patch.commands.rollback import rollback as run

        return run(*_target(python, path, root, manifest), Options(force, save_to, lock_timeout))

    _finish("rollback", verb, output_format, color, as_json)


@app.command()
def smoke(
    levels: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[LEVEL]...", help="imports, kernels, engine, ... (default: the first three)."),
    ] = None,
    python: PythonOption = None,
    path: PathOption = None,
    device: DeviceOption = "auto",
    rules: Annotated[str, typer.Option("--rules", help="PT_HPU_LAZY_MODE rules: lazy, eager, or both.")] = "lazy,eager",
    require: RequireOption = "",
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Prove that the installed LMCache works on HPU, level by level.

    imports: LMCache comes up without CUDA and finds the HPU. kernels: KV blocks are gathered and
    scattered bit for bit as an independent oracle says. engine: LMCache's own engine stores, looks
    up and retrieves over CPU, disk and a server.

    Each level runs in a process of the target's interpreter, on a real HPU where there is one,
    else on the emulated HPU (which needs PyTorch and g++). A skipped level is not a pass.

    Example:

        gaudi-patch smoke kernels engine --python /opt/venv/bin/python --device emulated
    """

    def verb() -> Result:
        from gaudi_patch.commands.smoke import smoke as run
        from gaudi_patch.locate import Target, locate

        chosen = _smoke_options(",".join(levels or ()), device, rules, require, timeout, quiet=as_json)
        return run(locate(Target(python, path)), chosen)

    _finish("smoke", verb, output_format, color, as_json)


@app.command(name="list")
def list_(
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """List the LMCache releases that have a series, what each series brings, and the refused ones.

    Example:
        gaudi-patch list --json

    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import list_series
        from gaudi_patch.manifest import load

        return list_series(load(manifest))

    _finish("list", verb, output_format, color, as_json)


@app.command()
def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="An LMCache release, e.g. 0.5.6.")],
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show the series for a release: why each patch is there, the files, the diffs.

    Example:
        gaudi-patch show 0.5.6 | less

    """

    def verb() -> Result:
        from gaudi_patch.commands.listing import show as run
        from gaudi_patch.manifest import load

        return run(load(manifest), version)

    _finish("show", verb, output_format, color, as_json)


@app.command()
def demo(
    version: Annotated[
        str,
        typer.Option("--version", metavar="VERSION", help="The LMCache release (default: the newest with a series)."),
    ] = "",
    keep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--keep", metavar="DIR", help="Make the environment in DIR and leave it there."),
    ] = None,
    torch: Annotated[
        str,
        typer.Option(
            "--torch", metavar="REQUIREMENT", help="The PyTorch (for the CPU) to install for the smoke checks."
        ),
    ] = "torch==2.13.0",
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Install LMCache alone and run no smoke checks.")
    ] = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Run the whole story in a throwaway environment: install, check, apply, prove, roll back, compare.

    Installs LMCache from PyPI without its CUDA packages, and PyTorch (a CPU build: where pip's
    index gives the CUDA one, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index). Shows each step
    with its result and time, and what the emulated HPU counted before and after the patch.
    Leaves nothing behind.

    Example:

        gaudi-patch demo --version 0.4.2 --no-smoke
    """

    def verb() -> Result:
        from gaudi_patch.commands.demo import Options
        from gaudi_patch.commands.demo import demo as run

        return run(Options(version, keep, "" if no_smoke else torch, as_json))

    _finish("demo", verb, output_format, color, as_json)


dev = typer.Typer(help="For those who keep the patches.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dev, name="dev")


@dev.command()
def lint(
    manifest: ManifestOption = None,
    write: Annotated[bool, typer.Option("--write", help="Renew manifest.lock.")] = False,
    wheel: WheelOption = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Hold the manifest, the lock and the diffs against the wheels.

    Each series is applied to the wheel of its release in memory, and every result compiled.
    Wheels come from PyPI once and are kept in GAUDI_PATCH_CACHE (~/.cache/gaudi-patch).

    With --wheel the nearest series is held against a release that has none yet: which hunks still
    fit, which are obsolete since upstream has the change, which conflict.

    Example, after a patch was changed:

        gaudi-patch dev lint --write
    """

    def verb() -> Result:
        from gaudi_patch.authoring.lint import lint as run
        from gaudi_patch.authoring.watch import watch

        return watch(manifest, wheel) if wheel is not None else run(manifest, write=write)

    _finish("dev lint", verb, output_format, color, as_json)


@dev.command()
def edit(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A release with a series.")],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[DIR]", help="A new folder for the worktree (default: lmcache-VERSION-edit)."),
    ] = None,
    manifest: ManifestOption = None,
    wheel: WheelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lay the pristine wheel and one commit for each patch into a new git worktree.

    Edit, amend and reorder the commits with git, as quilt and StGit users do; then `dev refresh`
    writes them back as diffs. No installation is touched.

    Example:

        gaudi-patch dev edit 0.5.6 /tmp/lmcache-0.5.6
    """

    def verb() -> Result:
        from gaudi_patch.authoring.edit import edit as run

        return run(version, folder, manifest, wheel)

    _finish("dev edit", verb, Format.TEXT, Color.AUTO, as_json)


@dev.command()
def refresh(folder: FolderArgument, manifest: ManifestOption = None, as_json: JsonOption = False) -> None:
    """Write the commits of a worktree back as diffs, and renew the lock.

    Three lines of context, full blob ids. Each commit names its patch by a trailer
    `Patch: NAME`; the names must be those of the series in manifest.toml.

    Example:

        gaudi-patch dev refresh /tmp/lmcache-0.5.6
    """

    def verb() -> Result:
        from gaudi_patch.authoring.edit import refresh as run

        return run(folder, manifest)

    _finish("dev refresh", verb, Format.TEXT, Color.AUTO, as_json)


@dev.command()
def port(
    versions: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="OLD NEW", help="The release to port from, and the one to port to."),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--dir", metavar="DIR", help="A new folder for the worktree (default: lmcache-NEW-port)."),
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
    as_json: JsonOption = False,
) -> None:
    """Carry a series to a new release by three-way merge.

    Patches that merge are committed; what upstream has already is dropped; a real conflict stops
    with both sides shown. At the end the patches, the series and the lock are written: a patch
    whose text is unchanged stays shared.

    Example:

        gaudi-patch dev port 0.5.5 0.5.6
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
        return porting.port(old, new, folder, manifest, wheel)

    _finish("dev port", verb, Format.TEXT, Color.AUTO, as_json)


def _smoke_options(
    levels: str, device: str, rules: str, require: str, timeout: float, *, quiet: bool = False
) -> SmokeOptions:
    from gaudi_patch.commands.smoke import Options

    def split(text: str) -> tuple[str, ...]:
        return tuple(part for part in text.replace(",", " ").split() if part)

    for name, value, allowed in (("--device", (device,), DEVICES), ("--rules", split(rules), RULES)):
        if not value or not set(value) <= set(allowed):
            raise GaudiPatchError(Exit.USAGE, "usage", f"{name} takes {', '.join(allowed)}, not {' '.join(value)!r}")
    return Options(split(levels), device, split(rules), split(require), timeout, quiet)


def _target(
    python: Path | None, path: Path | None, root: Path | None, manifest: Path | None
) -> tuple[Manifest, Installation]:
    from gaudi_patch.locate import Target, locate
    from gaudi_patch.manifest import load

    loaded = load(manifest)
    return loaded, locate(Target(python, path, root), loaded.package)


def _finish(
    command: str,
    verb: Callable[[], Result],
    output: Format,
    color: Color,
    as_json: bool,
    if_installed: bool = False,
) -> None:
    """Run a verb, print its Result, and exit: every way out of the program goes through here."""
    from gaudi_patch.report import show as print_result

    result = _guarded(command, verb, if_installed)
    print_result(result, Format.JSON if as_json else output, color)
    raise typer.Exit(int(result.exit))


def _guarded(command: str, verb: Callable[[], Result], if_installed: bool) -> Result:
    import signal

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        return verb()
    except GaudiPatchError as error:
        if if_installed and error.code == "not-installed":
            return Result(command, data={"installed": False}, warnings=[f"{error}: nothing to do"])
        return Result(command, error.exit, errors=[error])
    except KeyboardInterrupt:
        return _interrupted(command, Exit.INTERRUPTED, "interrupted")
    except _Terminated:
        return _interrupted(command, Exit.TERMINATED, "terminated")
    except OSError as error:
        from gaudi_patch.disk import environment_error

        fault = environment_error(error, f"running {command}")
        return Result(command, fault.exit, errors=[fault])
    except Exception as error:  # noqa: BLE001, RUF100 - the last line of defence: a bug is told as one
        return _bug(command, error)
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Terminated(BaseException):
    """SIGTERM, so that a transaction is undone on the way out."""


def _interrupted(command: str, code: Exit, what: str) -> Result:
    message = f"{what}; no file is left half-way"
    error = GaudiPatchError(code, what, message, "gaudi-patch check says what holds; run the same command again")
    return Result(command, code, errors=[error])


def _bug(command: str, error: Exception) -> Result:
    import tempfile
    import traceback

    from gaudi_patch.commands.version import version_text

    text = f"{version_text()}\n{' '.join(sys.argv)}\n\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="gaudi-patch-bug-", suffix=".txt", delete=False) as stream:
            stream.write(text)
        where = stream.name
    except OSError:
        from gaudi_patch.report import narrate

        narrate([text])
        where = "standard error"
    fault = GaudiPatchError(
        Exit.BUG,
        "bug",
        f"{type(error).__name__}: {error}. This is a bug of gaudi-patch; no file is left half-way",
        f"please report it with {where}",
    )
    return Result(command, Exit.BUG, errors=[fault])


def main() -> None:
    """The console script."""
    app()
