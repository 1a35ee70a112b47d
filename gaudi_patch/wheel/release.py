"""The series for a release's wheel, and the source of the wheels: a file, or pip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.authoring import wheels
from gaudi_patch.engine.situation import given
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import leaves, step
from gaudi_patch.series.manifest import Kind, Manifest, Series
from gaudi_patch.target.installation import Target
from gaudi_patch.target.invocation import command_line
from gaudi_patch.wheel.names import SdistName, WheelName

#: Python versions of the wheels of any LMCache release with a series; those a release lacks are skipped.
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


class Wheels(NamedTuple):
    """The wheels of a release, and the Python versions without one."""

    files: tuple[Path, ...]
    without: tuple[str, ...] = ()


def series_for(manifest: Manifest, name: WheelName | SdistName) -> Series:
    """Return the series for the release of a wheel or an sdist.

    Raises ``other-package`` (exit 2), ``not-needed`` (exit 1), ``refused-version`` or ``unknown-version`` (exit 3).
    """
    if name.name.lower().replace("_", "-").replace(".", "-") != manifest.package:
        what = f"is of {name.name}, but the patches are for {manifest.package}; nothing was written"
        raise GaudiPatchError(Exit.USAGE, "other-package", what, file=name.file)
    verdict = manifest.verdict(name.version)
    if verdict.series is not None:
        return verdict.series
    if verdict.kind is Kind.UPSTREAM:
        what = f"{name.version} needs no patch: {verdict.reason}; nothing was written"
        raise GaudiPatchError(Exit.REFUSED, "not-needed", what, "install the release's own wheel")
    if verdict.kind is Kind.REFUSED:
        what = f"{name.version} is refused: {verdict.reason}; nothing was written"
        raise GaudiPatchError(Exit.NOT_FOUND, "refused-version", what, verdict.advice)
    nearest = f"; the nearest series is {verdict.nearest.id}" if verdict.nearest else ""
    raise GaudiPatchError(
        Exit.NOT_FOUND,
        "unknown-version",
        f"the manifest has no series for {name.name} {name.version}{nearest}; nothing was written",
        f"`{command_line('list', target=Target(), manifest=given(manifest))}` has the supported releases",
    )


def wheels_of(manifest: Manifest, release: str, pythons: Sequence[str]) -> Wheels:
    """Return the wheels of ``release``, downloaded by pip once: for ``pythons``, or for every Python it supports.

    Raises ``download-failed`` (exit 4) if pip cannot download, ``no-wheel`` (exit 3) if a Python in ``pythons`` has
    no wheel.
    """
    manifest.named(release)
    series_for(manifest, WheelName(manifest.package, release, "", ""))  # before anything is downloaded
    files, without = [], []
    wanted = tuple(pythons or PYTHONS)
    leaves("no wheel was written")
    with step(f"the wheels of {manifest.package} {release}", len(wanted)) as shown:
        for python in wanted:
            try:
                files.append(wheels.fetch(manifest.package, release, python))
                shown.end(f"for Python {python}: {files[-1].name}")
            except wheels.NoWheelError as error:
                if pythons:
                    raise
                shown.end(error.message)
                without.append(python)
    leaves("")
    if not files:
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise GaudiPatchError(
            Exit.NOT_FOUND,
            "no-wheel",
            f"the index has no wheel of {manifest.package} {release} for this platform; nothing was written",
            f"see `pip download --no-deps --only-binary :all: --python-version {here} {manifest.package}=={release}`",
        )
    return Wheels(tuple(dict.fromkeys(files)), tuple(without))
