"""Prove that the patched code runs, level by level, on a real or on the emulated HPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.output import progress
from gaudi_patch.smoke import levels as table
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.invocation import command_line

#: The default levels of `apply`: all that need only LMCache and torch.
AFTER_APPLY = ("imports", "kernels", "engine")


@dataclass(frozen=True)
class SmokeOptions:
    """Levels to run (empty: AFTER_APPLY), the device, the modes, and the levels that must not be skipped.

    ``arguments`` are extra arguments for the probes, by level.
    """

    levels: Sequence[str] = ()
    device: str = "auto"
    rules: Sequence[str] = ("lazy", "eager")
    require: Sequence[str] = ()
    timeout: float = 300.0
    quiet: bool = False
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """The results of the levels; ``fault`` is why they prove nothing, None if they do."""

    levels: tuple[LevelResult, ...]
    fault: GaudiPatchError | None

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return the names of the levels that could not be run, without duplicates."""
        return tuple(sorted({level.level for level in self.levels if level.status == "skipped"}))


def prove(installation: Installation, options: SmokeOptions) -> Proof:
    """Run the levels against an installation.

    A skipped level has not passed: a skipped required level is a fault, and so is a run in which nothing passed.
    """
    levels = run(installation, options)
    fault = fault_of(levels, options)
    if fault is not None:
        fault.hint += f"; on an unpatched installation: `{command_line('apply', target=installation.target)}`"
    if fault is None and not any(level.status == "passed" for level in levels):
        reasons = sorted({level.reason for level in levels})
        again = "provide what is missing, and run the same command again"
        fault = GaudiPatchError(Exit.SMOKE, "nothing-proved", "every level was skipped", again, details=reasons)
    return Proof(tuple(levels), fault)


def run(installation: Installation, options: SmokeOptions) -> list[LevelResult]:
    """Run the levels in subprocesses of the target's interpreter."""
    wanted = known_levels(options)
    known = table.names()
    python = interpreter_of(installation)
    ordered = [name for name in known if name in {*wanted, *options.require}]
    with progress.step(f"smoke checks: {', '.join(ordered)}", len(ordered) * len(options.rules)) as step:
        return runner.run(
            python,
            levels=ordered,
            device=options.device,
            rules=options.rules,
            timeout=options.timeout,
            arguments=options.arguments,
            on_begin=step.begin,
            on_case=step.tell,
            on_progress=step.end,
        )


def known_levels(options: SmokeOptions) -> tuple[str, ...]:
    """Return the requested levels. Raises ``unknown-level`` (exit 2) before searching for anything."""
    wanted = tuple(options.levels) or AFTER_APPLY
    known = table.names()
    for name in (*wanted, *options.require):
        if name not in known:
            raise GaudiPatchError(
                Exit.USAGE,
                "unknown-level",
                f"no such smoke level: {name}{did_you_mean(name, known)}",
                f"levels: {', '.join(known)}",
            )
    return wanted


def interpreter_of(installation: Installation) -> Path:
    """Return the target's interpreter. Raises ``no-interpreter`` if none can be run."""
    if installation.python is None:
        raise no_interpreter(installation)
    return installation.python


def no_interpreter(installation: Installation) -> GaudiPatchError:
    """Return the error for a target that can be patched but not run, such as an image root."""
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "no-interpreter",
        "no interpreter of the target can be run, so nothing can be proved; nothing was changed",
        "point --python at the target's interpreter, or apply without a proof: "
        f"`{command_line('apply', '--no-smoke', target=installation.target)}`",
        str(installation.root),
    )


def _count(bad: Sequence[LevelResult], total: int) -> str:
    """Return how many failed and how many were skipped, since a check that could not run has not failed."""
    failed = sum(level.status == "failed" for level in bad)
    skipped = len(bad) - failed
    if not skipped:
        return f"{failed} of {total} smoke checks failed"
    words = f"{skipped} of {total} smoke checks were required but could not run"
    return f"{failed} of {total} smoke checks failed; {words}" if failed else words


def fault_of(results: Sequence[LevelResult], options: SmokeOptions) -> GaudiPatchError | None:
    """Return the error for what failed, or was skipped although required; None if there is none."""
    bad = [
        level
        for level in results
        if level.status == "failed" or (level.status == "skipped" and level.level in options.require)
    ]
    if not bad:
        return None
    details = []
    for result in bad:
        details.append(f"{result.level} ({result.rules}) {result.status}: {result.reason}")
        details += [f"  {failure.check}: {failure.message}" for failure in result.failures[:5]]
    hint = "see the details above"
    if any(level.timed_out for level in bad):
        hint += f"; a slow machine needs more than --smoke-timeout {options.timeout:g}"
    return GaudiPatchError(
        Exit.SMOKE,
        "smoke-failed",
        _count(bad, len(results)),
        hint,
        details=details,
    )
