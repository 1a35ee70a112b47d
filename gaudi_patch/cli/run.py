"""Run a verb, print its Result, exit: the only place that does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Color, Format, Result

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.smoke.checks import Options as SmokeOptions
    from gaudi_patch.target.installation import Installation


def smoke_options(
    levels: str, device: str, rules: str, require: str, timeout: float, *, quiet: bool = False
) -> SmokeOptions:
    from gaudi_patch.smoke.checks import Options
    from gaudi_patch.smoke.levels import DEVICES, RULES

    def split(text: str) -> tuple[str, ...]:
        return tuple(part for part in text.replace(",", " ").split() if part)

    for name, value, allowed in (("--device", (device,), DEVICES), ("--rules", split(rules), RULES)):
        if not value or not set(value) <= set(allowed):
            raise GaudiPatchError(Exit.USAGE, "usage", f"{name} takes {', '.join(allowed)}, not {' '.join(value)!r}")
    return Options(split(levels), device, split(rules), split(require), timeout, quiet)


def exclude(option: str, other: str, given: bool) -> None:
    """Refuse two options that contradict each other."""
    if given:
        raise GaudiPatchError(Exit.USAGE, "usage", f"{option} and {other} exclude each other", "leave one of them out")


def target(
    python: Path | None, path: Path | None, root: Path | None, manifest: Path | None
) -> tuple[Manifest, Installation]:
    from gaudi_patch.series.manifest import load
    from gaudi_patch.target.locate import Target, locate

    loaded = load(manifest)
    return loaded, locate(Target(python, path, root), loaded.package)


def finish(
    command: str,
    verb: Callable[[], Result],
    output: Format,
    color: Color,
    as_json: bool,
    if_installed: bool = False,
    pager: bool = False,
) -> None:
    """Run a verb, print its Result, and exit: every way out of the program goes through here.

    ``pager``: the text is long, and goes through a pager on a terminal.
    """
    result = guarded(command, verb, if_installed)
    raise typer.Exit(int(printed(result, Format.JSON if as_json else output, color, pager)))


def printed(result: Result, output: Format, color: Color, pager: bool = False) -> Exit:
    """Print ``result`` and return the exit code: that of what was done, whatever printing it meets.

    But who asked for JSON and did not get it whole has no result: 0 and 10 become 4, with what they were on stderr.
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
    except KeyboardInterrupt:  # nothing is undone by it: the command itself had ended
        problem = "interrupted" if output is Format.JSON else ""
    if problem and result.exit in (Exit.OK, Exit.PENDING):
        narrate([f"  {result.command} itself ended as for exit code {int(result.exit)}; only its output is lost"])
        return Exit.ENVIRONMENT
    return result.exit


def guarded(command: str, verb: Callable[[], Result], if_installed: bool) -> Result:
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
        f"{type(error).__name__}: {error}. This is a bug of gaudi-patch; no file is left half-way",
        f"please report it with {where}",
    )
    return Result(command, Exit.BUG, errors=[fault])
