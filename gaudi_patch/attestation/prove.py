"""Apply a series and prove it by smoke checks; an unproved series is rolled back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.engine import apply as applying
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.outcome import ApplyOutcome
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.progress import Progress, Stage, uninterrupted
from gaudi_patch.engine.rollback import RollbackOptions, rollback
from gaudi_patch.engine.situation import Situation, look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke import checks
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.invocation import command_line


class Attested(NamedTuple):
    """A written attestation: its path, its sha256, and its reason for the smoke status."""

    path: Path
    sha256: str
    smoke: str


@dataclass(frozen=True)
class ProvedApply:
    """The outcome of `apply` and its smoke results.

    ``now`` is the installation after the last write, including a rollback. ``levels`` is None if no level was run;
    ``not_run`` says why. ``fault`` is the error of a failed level.
    """

    outcome: ApplyOutcome
    now: Situation
    stage: Stage
    levels: tuple[LevelResult, ...] | None = None
    not_run: str = ""
    fault: GaudiPatchError | None = None
    warnings: tuple[str, ...] = ()
    attested: Attested | None = None

    @property
    def exit(self) -> Exit:
        """Return the exit code."""
        return Exit.OK if self.fault is None else self.fault.exit

    @property
    def accepted(self) -> bool:
        """Return whether this run removed the mark that an earlier run left on an unproved series."""
        return not self.outcome.changed and _is_pending(self.outcome.before) and not _is_pending(self.now)

    @property
    def changed(self) -> bool:
        """Return whether the run changed any file."""
        return self.outcome.changed and self.stage is not Stage.ROLLED_BACK


def skipped_warning(level: LevelResult) -> str:
    """Return a warning that a level was skipped, and why: this run has not proved that level."""
    return f"smoke level {level.level} ({level.rules}) was skipped: {level.reason}"


def apply_and_prove(
    manifest: Manifest,
    installation: Installation,
    options: ApplyOptions,
    smoke: checks.SmokeOptions | None,
    progress: Progress | None = None,
) -> ProvedApply:
    """Apply the series, then run the smoke checks of ``smoke`` (None: none).

    A failed level, an error or a signal before the proof rolls back the series applied by this run. A series applied
    earlier is proved only if levels are required, or if that run was killed before its proof; in the second case, a
    failure rolls it back too. Raises the errors of `apply`, and ``rollback-failed`` (exit 6) if the rollback fails.
    """
    progress = Progress() if progress is None else progress
    if smoke is not None:
        checks.known_levels(smoke)  # before anything is written
    required = smoke is not None and bool(smoke.require)
    if required and installation.python is None:
        raise checks.no_interpreter(installation)
    demanded = smoke is not None and installation.python is not None
    run = _Run(manifest, installation, replace(options, unproved=demanded), progress)
    try:
        outcome = applying.apply(manifest, installation, run.options, progress)
        pending = _is_pending(outcome.after)
        if smoke is None or not (outcome.changed or required or pending):
            if pending and not options.dry_run:
                return run.unasked(outcome)
            return run.without_proof(outcome, "--no-smoke" if smoke is None else "")
        if not demanded:
            note = "smoke checks skipped: no interpreter of the target can be run (--python names one)"
            return run.without_proof(outcome, "no interpreter of the target can be run", note)
        run.ours = outcome.changed or pending
        levels = tuple(checks.run(installation, smoke))
        fault = checks.fault_of(levels, smoke)
        return run.refuted(outcome, levels, fault) if fault else run.proved(outcome, levels)
    except BaseException as error:
        if demanded and not run.settled and (run.ours or progress.stage is Stage.COMMITTED):
            run.take_back(error)
            if isinstance(error, GaudiPatchError):
                error.exit = Exit.ENVIRONMENT if error.exit is Exit.HUMAN else error.exit
                error.message += f"; {progress.words()}"
        raise


def _is_pending(situation: Situation) -> bool:
    return situation.state is State.PATCHED and situation.applied is not None and situation.applied.unproved


@dataclass
class _Run:
    """One apply with its proof. ``ours``: roll back the series unless it is proved."""

    manifest: Manifest
    installation: Installation
    options: ApplyOptions
    progress: Progress
    ours: bool = False
    settled: bool = False

    def without_proof(self, outcome: ApplyOutcome, why: str, warning: str = "") -> ProvedApply:
        not_run = why if outcome.changed else "nothing was changed, and no level was required"
        warnings = (*outcome.warnings, *([warning] if warning else []))
        return ProvedApply(outcome, outcome.after, self.progress.stage, not_run=not_run, warnings=warnings)

    def unasked(self, outcome: ApplyOutcome) -> ProvedApply:
        """Accept a series that an earlier run left unproved: --no-smoke asks for no proof."""
        now, warnings = self._confirmed(outcome)
        why = "nothing was changed, and no level was required"
        return ProvedApply(outcome, now, self.progress.stage, not_run=why, warnings=(*outcome.warnings, *warnings))

    def proved(self, outcome: ApplyOutcome, levels: tuple[LevelResult, ...]) -> ProvedApply:
        with uninterrupted():
            now, warnings = self._confirmed(outcome)
            self.settled = True
        skipped = [skipped_warning(level) for level in levels if level.status == "skipped"]
        warnings = (*outcome.warnings, *skipped, *warnings)
        return ProvedApply(outcome, now, self.progress.stage, levels, warnings=warnings)

    def refuted(self, outcome: ApplyOutcome, levels: tuple[LevelResult, ...], fault: GaudiPatchError) -> ProvedApply:
        now, warnings = outcome.after, outcome.warnings
        if self.ours:
            now = self.take_back(fault)
            fault.message += "; the series was rolled back"
            leave = now.command("apply", "--no-smoke")
            again = command_line("smoke", target=self.installation.target)
            fault.hint += f"; to investigate, `{leave}` keeps the series applied, `{again}` says more"
        else:
            fault.message += "; nothing was changed"
        return ProvedApply(outcome, now, self.progress.stage, levels, fault=fault, warnings=warnings)

    def take_back(self, why: BaseException) -> Situation:
        """Roll back to pristine, with signals deferred. Raises ``rollback-failed`` (exit 6), which names the files."""
        options = RollbackOptions(lock_timeout=self.options.lock_timeout, disk=self.options.disk)
        with uninterrupted():
            undoing = Progress()
            self.settled = True
            try:
                done = rollback(self.manifest, self.installation, options, undoing)
            except (GaudiPatchError, OSError) as error:
                self.progress.stage = Stage.UNDO_FAILED
                raise self._stuck(why, error, undoing) from error
            self.progress.stage = Stage.ROLLED_BACK
            return done.after

    def _stuck(self, why: BaseException, error: Exception, undoing: Progress) -> GaudiPatchError:
        first = why.message if isinstance(why, GaudiPatchError) else str(why) or type(why).__name__
        second = error.message if isinstance(error, GaudiPatchError) else str(error)
        whole = undoing.stage in (Stage.NOT_STARTED, Stage.UNDONE)
        left = "the series is applied but not proved" if whole else "some files may be patched and others pristine"
        details = list(why.details) if isinstance(why, GaudiPatchError) else []
        details += error.details if isinstance(error, GaudiPatchError) else []
        try:
            situation = look(self.manifest, self.installation)
            details += [f"{file.state.value}: {file.path}" for file in situation.files]
            hint = situation.command("rollback")
        except (GaudiPatchError, OSError):
            hint = command_line("rollback", target=self.installation.target)
        return GaudiPatchError(
            Exit.HUMAN,
            "rollback-failed",
            f"{first}; and the rollback failed too: {second}; {left}",
            hint,
            error.file if isinstance(error, GaudiPatchError) else str(self.installation.root),
            details=details,
        )

    def _confirmed(self, outcome: ApplyOutcome) -> tuple[Situation, tuple[str, ...]]:
        """Remove the unproved mark. If that fails, the proof still holds; warn that `check` will report the mark."""
        if not _is_pending(outcome.after):
            return outcome.after, ()
        try:
            return applying.confirm(self.manifest, self.installation, self.options), ()
        except (GaudiPatchError, OSError) as error:
            return outcome.after, (f"could not be marked as proved, so `check` will warn: {error}",)
