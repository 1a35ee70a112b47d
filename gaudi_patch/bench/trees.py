"""Make the patched and the unpatched code of an installation importable, without changing the installation.

One of them is the installation itself. The other is a temporary directory placed before it on sys.path. It has links
to the package's unchanged files, and that side's version of each file that the series changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.disk import FileImage, read_image
from gaudi_patch.engine import plan
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.pristine import pristine_images
from gaudi_patch.engine.situation import Situation
from gaudi_patch.engine.verdicts import fault_of

STOCK, PATCHED = "stock", "patched"
#: The patched code, as it moves objects that are not pinned.
RING = "ring"


class Code(NamedTuple):
    """One side: its name, the directory of its package, and whether that directory must be added to sys.path."""

    name: str
    root: Path
    laid_out: bool


def codes(situation: Situation, folder: Path) -> list[Code]:
    """Return the unpatched and the patched code, in this order; only the unpatched code if no series is needed.

    The other side is laid out in ``folder``, an empty directory. Raises the errors of `apply` for an unknown or
    refused version, and for files that are neither pristine nor patched.
    """
    fault = fault_of(situation)
    if fault is not None:
        raise fault
    root = situation.installation.root
    if situation.state is None:
        return [Code(STOCK, root, laid_out=False)]
    installed = STOCK if situation.state is State.PRISTINE else PATCHED
    other = PATCHED if installed == STOCK else STOCK
    images = _patched(situation) if other == PATCHED else pristine_images(situation)
    lay_out(root / situation.installation.package, folder, images)
    laid = {installed: Code(installed, root, laid_out=False), other: Code(other, folder, laid_out=True)}
    return [laid[STOCK], laid[PATCHED]]


def lay_out(package: Path, folder: Path, images: Mapping[str, FileImage | None]) -> None:
    """Create ``folder / package.name`` with links to the files of ``package``, except for the paths in ``images``."""
    changed = {Path(path): image for path, image in images.items()}
    _link(package, folder, Path(package.name), changed)
    for path, image in changed.items():
        if image is not None:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image.data)


def _link(source: Path, folder: Path, relative: Path, changed: Mapping[Path, FileImage | None]) -> None:
    # Only directories with changed files are created, without __pycache__: it may belong to the other side.
    for entry in sorted(source.iterdir()):
        path = relative / entry.name
        if path in changed or entry.name == "__pycache__":
            continue
        if entry.is_dir() and any(file.is_relative_to(path) for file in changed):
            _link(entry, folder, path, changed)
            continue
        (folder / relative).mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(entry)


def _patched(situation: Situation) -> dict[str, FileImage | None]:
    """Return the files patched by the series, checked against the lock."""
    assert situation.series is not None
    planned = plan.build(situation.manifest, situation.series, _on_disk(situation), locked=situation.locked)
    return {file.path: file.after for file in planned.files}


def _on_disk(situation: Situation) -> dict[str, FileImage | None]:
    bounds = Ground.of(situation.installation).bounds
    return {file.path: read_image(situation.installation.root / file.path, bounds) for file in situation.files}
