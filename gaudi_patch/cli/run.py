"""Run a command, print its Result, and exit. No other module does this."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gaudi_patch.engine.progress import SIGNALS, Progress, Stage
from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.output.report import Color, Format, Result

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.smoke.checks import SmokeOptions
    from gaudi_patch.target.installation import Installation


#: Commands that leave no files behind.
READ_ONLY = frozenset({"check", "smoke", "doctor", "bench", "list", "show", "guide", "size", "fleet"})


def smoke_options(
    levels: str, device: str, rules: str, require: str, timeout: float, *, quiet: bool = False
) -> SmokeOptions:
    from gaudi_patch.smoke.checks import SmokeOptions
    from gaudi_patch.smoke.levels import DEVICES, RULES

    def split(text: str) -> tuple[str, ...]:
        return tuple(part for part in text.replace(",", " ").split() if part)

    for name, value, allowed in (("--device", (device,), DEVICES), ("--rules", split(rules), RULES)):
        if not value or not set(value) <= set(allowed):
            odd = next((word for word in value if word not in allowed), "")
            what = f"{name} must be one of {', '.join(allowed)}, not {' '.join(value)!r}{did_you_mean(odd, allowed)}"
            raise GaudiPatchError(Exit.USAGE, "usage", what)
    return SmokeOptions(split(levels), device, split(rules), split(require), timeout, quiet)


def detailed(verbose: bool, output: Format) -> bool:
    """Return whether to show files and other details: on request, or for a CI service, whose log is read later."""
    return verbose or output in (Format.GITHUB, Format.GITLAB)


def exclude(option: str, other: str, given: bool) -> None:
    """Refuse two options that contradict each other."""
    if given:
        raise GaudiPatchError(Exit.USAGE, "usage", f"{option} and {other} exclude each other", "use only one of them")


def needs(option: str, other: str) -> GaudiPatchError:
    """Return the error for an option that has no effect without another."""
    return GaudiPatchError(Exit.USAGE, "usage", f"{option} needs {other}", f"give {other}, or leave out {option}")


def target(
    python: Path | None, path: Path | None, root: Path | None, manifest: Path | None, *, ask: bool = True
) -> tuple[Manifest, Installation]:
    from gaudi_patch.series.manifest import load
    from gaudi_patch.target.locate import Target, locate

    loaded = load(manifest)
    return loaded, locate(Target(python, path, root), loaded.package, ask=ask)


def finish(
    command: str,
    run: Callable[[], Result],
    output: Format,
    color: Color,
    as_json: bool,
    if_installed: bool = False,
    pager: bool = False,
    progress: Progress | None = None,
    check: str = "",
) -> None:
    """Run a command, print its Result, and exit. Every command ends here.

    ``pager`` sends long text through a pager on a terminal. ``progress`` records the changes made to the target, so
    that the message and the exit code are right however the run ends. ``check`` is the command line that checks the
    same target.
    """
    from gaudi_patch.output import progress as telling
    from gaudi_patch.output import streams

    streams.choose(color)
    telling.start(quiet=as_json or output is Format.JSON)
    result = guarded(command, run, if_installed, progress, check)
    raise typer.Exit(int(printed(result, Format.JSON if as_json else output, color, pager)))


def printed(result: Result, output: Format, color: Color, pager: bool = False) -> Exit:
    """Print ``result`` and return the command's exit code, even if printing fails.

    One exception: if the JSON was requested and not written completely, 0 and 10 become 4, and stderr names the
    original code.
    """
    from gaudi_patch.output.report import narrate
    from gaudi_patch.output.report import show as print_result

    problem = ""
    try:
        if pager and output is Format.TEXT and not result.errors:
            from gaudi_patch.output.pager import paged

            with paged():
                print_result(result, output, color)
        else:
            problem = print_result(result, output, color)
    except KeyboardInterrupt:  # Nothing is undone: the command itself had finished.
        problem = "interrupted" if output is Format.JSON else ""
    if problem and result.exit in (Exit.OK, Exit.PENDING):
        narrate([f"  {result.command} itself finished with exit code {int(result.exit)}; only its output was lost"])
        return Exit.ENVIRONMENT
    return result.exit


def guarded(
    command: str, run: Callable[[], Result], if_installed: bool, progress: Progress | None = None, check: str = ""
) -> Result:
    """Run a command; turn any exception into a Result that says what ``progress`` recorded."""
    with _ending_signals():
        try:
            return run()
        except GaudiPatchError as error:
            if if_installed and error.code == "not-installed":
                return Result(command, data={"installed": False}, warnings=[f"{error}: nothing to do"])
            return _failed(command, error, progress)
        except KeyboardInterrupt:
            return _interrupted(command, Exit.INTERRUPTED, "interrupted", progress, check)
        except _Terminated:
            return _interrupted(command, Exit.TERMINATED, "terminated", progress, check)
        except OSError as error:
            from gaudi_patch.disk import environment_error

            fault = environment_error(error, f"running {command}", progress.words() if progress else "")
            fault.message = fault.message.removesuffix("; ")
            if progress is not None and progress.stage in (Stage.COMMITTED, Stage.UNDO_FAILED):
                fault.exit = Exit.HUMAN  # Exit code 4 means that the target is unchanged.
            return _failed(command, fault, progress)
        except Exception as error:  # noqa: BLE001, RUF100 - the last line of defence: a bug is reported as one
            return _bug(command, error, progress)


def _failed(command: str, fault: GaudiPatchError, progress: Progress | None) -> Result:
    result = Result(command, fault.exit, errors=[fault])
    if progress is not None:
        result.data["stage"] = progress.stage.value
        result.warnings += [progress.recovered] if progress.recovered else []
        result.warnings += progress.warnings
    return result


class _Terminated(BaseException):
    """A terminating signal, raised so that a transaction is undone on the way out."""


@contextmanager
def _ending_signals() -> Iterator[None]:
    """Raise on the first terminating signal; ignore later ones, so that they cannot interrupt the rollback."""
    import signal

    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    # A signal that the parent ignores (nohup) stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _interrupted(command: str, code: Exit, what: str, progress: Progress | None, check: str) -> Result:
    if progress is None:
        from gaudi_patch.output import progress as telling

        left = telling.left() or ("nothing was changed" if command in READ_ONLY else "")
        return Result(command, code, errors=[GaudiPatchError(code, what, f"{what}; {left}" if left else what)])
    again = "run the same command again"
    hint = f"`{check}` shows the current state; then {again}" if check else again
    return _failed(command, GaudiPatchError(code, what, f"{what}; {progress.words()}", hint), progress)


def _bug(command: str, error: Exception, progress: Progress | None) -> Result:
    import tempfile
    import traceback

    from gaudi_patch.cli.version import version_text

    text = f"{version_text()}\n{' '.join(sys.argv)}\n\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="gaudi-patch-bug-", suffix=".txt", delete=False) as stream:
            stream.write(text)
        where = stream.name
    except OSError:
        from gaudi_patch.output.report import narrate

        narrate(text.splitlines())
        where = "standard error"
    fault = GaudiPatchError(
        Exit.BUG,
        "bug",
        f"{type(error).__name__}: {error}. This is a bug of gaudi-patch{f'; {progress.words()}' if progress else ''}",
        f"please report it with {where}",
    )
    return _failed(command, fault, progress)
