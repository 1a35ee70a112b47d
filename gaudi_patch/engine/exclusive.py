"""The beginning of `apply` and `rollback`: take the lock, and undo what a killed run left unfinished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gaudi_patch.disk import Disk, environment_error
from gaudi_patch.engine import orphans, transaction
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.progress import Progress
from gaudi_patch.engine.situation import given, lock
from gaudi_patch.engine.way_out import way_out
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.installation import Installation


@contextmanager
def exclusive(
    manifest: Manifest,
    installation: Installation,
    timeout: float | None,
    disk: Disk,
    progress: Progress | None = None,
) -> Iterator[list[str]]:
    """Hold the installation's lock with any killed run undone; yield the resulting warnings.

    ``timeout`` is in seconds; None takes no lock. ``progress`` notes what was done about the killed run.
    """
    with way_out(installation), lock(installation, timeout) as warnings:
        warnings += orphans.clear(installation, timeout, disk)
        warnings += orphans.clear_superseded(installation, disk)
        try:
            recovered = transaction.recover(Ground.of(installation, given(manifest)), disk)
        except OSError as error:  # once begun, the undo itself reports what it could not do
            raise environment_error(error, "looking for the journal of an interrupted run") from error
        if recovered is not None:
            count = f"{recovered.restored} file{'s' if recovered.restored != 1 else ''} restored"
            warnings.append(f"an interrupted {recovered.verb} was undone first ({count})")
            if progress is not None:
                progress.recovered = warnings[-1]
                progress.warnings += recovered.warnings
            warnings += recovered.warnings
        yield warnings
