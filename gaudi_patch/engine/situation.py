"""Everything that a command needs to know before it decides: target, verdict, state, interrupted runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import built as built_wheel
from gaudi_patch.engine import journal, plan
from gaudi_patch.engine.applied import Applied
from gaudi_patch.engine.built import Built
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.journal import Journal
from gaudi_patch.engine.locking import directory_lock
from gaudi_patch.engine.plan import FileState, State
from gaudi_patch.engine.way_out import way_out
from gaudi_patch.series.manifest import Kind, LockedFile, Manifest, Series, Verdict, default_directory
from gaudi_patch.target.installation import Installation, Layout, Target
from gaudi_patch.target.invocation import command_line

LOCK_TIMEOUT = 10.0


class Situation(NamedTuple):
    """The situation of an installation. ``series`` comes from the manifest, ``applied`` from state.json.

    ``built`` comes from the attestation of a wheel patched before installation; None if a newer state exists.
    """

    manifest: Manifest
    installation: Installation
    verdict: Verdict
    series: Series | None
    by_hash: bool
    applied: Applied | None
    interrupted: Journal | None
    files: tuple[FileState, ...]
    state: State | None
    built: Built | None = None

    @property
    def locked(self) -> dict[str, LockedFile]:
        assert self.series is not None
        return self.manifest.locked_files(self.series)

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command line for this target and manifest, quoted for the shell."""
        return command_line(verb, *arguments, target=self.installation.target, manifest=given(self.manifest))

    def rebuild(self) -> str:
        """Return the command line that rebuilds the patched wheel of ``built``, with the next build number."""
        assert self.built is not None
        build = ("--build", str(self.built.build + 1), "--out", "DIR")
        return command_line("wheel", self.built.release, *build, target=Target(), manifest=given(self.manifest))

    @property
    def ground(self) -> Ground:
        """Return the installation's ground, with the options that a command line repeats."""
        return Ground.of(self.installation, given(self.manifest))


def given(manifest: Manifest) -> Path | None:
    """Return the directory given with --manifest; None for the built-in manifest."""
    return None if manifest.directory == default_directory() else manifest.directory


def lock(installation: Installation, timeout: float | None = LOCK_TIMEOUT) -> AbstractContextManager[list[str]]:
    """Return the lock of an installation: on the directory of the state, without a lock file."""
    return directory_lock(installation.state_dir.parent, timeout)


def look(manifest: Manifest, installation: Installation) -> Situation:
    """Read the state of ``installation`` without writing; the target may be read-only."""
    ground = Ground.of(installation)
    with way_out(installation):
        applied = applied_state.load(ground)
        interrupted = journal.load(ground)
        built = built_wheel.load(ground) if applied is None and installation.dist_info is not None else None
    verdict = manifest.verdict(installation.version) if installation.version else Verdict(Kind.UNKNOWN, "")
    series, by_hash = verdict.series, False
    if verdict.kind is Kind.UNKNOWN or installation.layout in (Layout.EDITABLE, Layout.CHECKOUT):
        # The metadata of a source tree may be older than its files.
        fitting = _by_hash(manifest, ground)
        if fitting is not None:
            series, by_hash = fitting, True
            verdict = Verdict(Kind.SERIES, installation.version, series)
    expected = _expected(manifest, series, applied, built)
    files = plan.inspect(ground, expected) if expected else ()
    return Situation(
        manifest,
        installation,
        verdict,
        series,
        by_hash,
        applied,
        interrupted,
        files,
        _state(manifest, series, applied, built, files),
        built,
    )


def _expected(
    manifest: Manifest, series: Series | None, applied: Applied | None, built: Built | None
) -> Mapping[str, LockedFile]:
    """Return the expected hashes: of the applied or built-in series if there is one, else of the lock."""
    if applied is not None:
        return {
            path: LockedFile(file.before.sha256 if file.before else None, file.after)
            for path, file in applied.files.items()
        }
    if built is not None:
        return built.files
    return manifest.locked_files(series) if series else {}


def _state(
    manifest: Manifest,
    series: Series | None,
    applied: Applied | None,
    built: Built | None,
    files: tuple[FileState, ...],
) -> State | None:
    if not files:
        return None
    whole = plan.whole_state(files)
    known = applied or built
    if whole is State.PATCHED and known is not None and series is not None and not (applied and applied.offset):
        locked = manifest.locked_files(series)
        now = {path: file.after for path, file in known.files.items()}
        if now != {path: file.after for path, file in locked.items()}:
            return State.OUTDATED
    return whole


def _by_hash(manifest: Manifest, ground: Ground) -> Series | None:
    """Return the series whose files are all present, pristine or patched, by hash (for checkouts, local builds)."""
    for series in manifest.series:
        files = plan.inspect(ground, manifest.locked_files(series))
        if all(file.state in (State.PRISTINE, State.PATCHED) for file in files):
            return series
    return None
