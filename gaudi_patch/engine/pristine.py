"""The pristine files of a patched installation: from backups, or by reverse-applying the series in memory."""

from __future__ import annotations

from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine import applied as applied_state
from gaudi_patch.engine import plan
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.situation import Situation


def pristine_images(situation: Situation) -> dict[str, FileImage | None]:
    """Return the pristine image of every patched file, by path; None for a file that the series adds.

    Backups are compared with their hashes. If something else patched the files there are no backups: the hunks are
    then reverse-applied, and every result is compared with the lock. Raises ``state-damaged``, ``does-not-apply`` or
    ``not-reversible``.
    """
    installation = situation.installation
    ground = Ground.of(installation)
    if situation.applied is not None:
        return {
            path: applied_state.restore(ground, file.before, installation.root / path) if file.before else None
            for path, file in situation.applied.files.items()
        }
    assert situation.series is not None
    locked = situation.locked
    patched = {file.path for file in situation.files if file.state is State.PATCHED}
    images = {path: read_image(installation.root / path, ground.bounds) for path in patched}
    planned = plan.reverse(situation.manifest, situation.series, images, {path: locked[path] for path in patched})
    return {file.path: file.before for file in planned.files}
