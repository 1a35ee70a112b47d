"""An image with an environment in it: the target that hostile cases spoil, and how each command reaches it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from tests.support import tiny
from tests.support.cli import gaudi_patch
from tests.support.faults import copy_tree
from tests.support.hostile.spoiling import Case, make_victim
from tests.support.tiny import Tiny

#: The ways to name a target.
WAYS = ("path", "root", "python")


class Spoiled(NamedTuple):
    """A spoiled image, the victim next to it, and the options that lead a command there."""

    image: Path
    victim: Path
    options: list[str | Path]


def make_templates(folder: Path) -> Path:
    """Return ``folder`` with an image, ``pristine`` and ``applied``, the patches, and the attestation of the second."""
    folder = folder.resolve()
    made = tiny.make(folder)
    site = site_of(folder / "pristine")
    site.parent.mkdir(parents=True)
    made.site.rename(site)
    environment = folder / "pristine/opt/venv"
    (environment / "bin").mkdir()
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / "pyvenv.cfg").write_text(
        f"home = {Path(sys.executable).parent}\ninclude-system-site-packages = false\n"
    )
    copy_tree(folder / "pristine", folder / "applied")
    options = ["--manifest", folder / "patches", "--path", site_of(folder / "applied")]
    done = gaudi_patch("apply", "--no-smoke", "--report", folder / "attestation.json", *options)
    assert done.code == 0, done
    return folder


def site_of(image: Path) -> Path:
    return image / f"opt/venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def spoil(case: Case, templates: Path, folder: Path, way: str) -> Spoiled:
    """Return a spoiled copy of the image that ``case`` needs, for the ``way`` of ``WAYS``."""
    image = copy_tree(templates / ("applied" if case.applied else "pristine"), folder / "image")
    victim = make_victim(folder)
    case.spoil(Tiny(site_of(image), None), victim)  # type: ignore[arg-type]  # the commands read the manifest themselves
    where = {"path": site_of(image), "root": image, "python": image / "opt/venv/bin/python"}[way]
    return Spoiled(image, victim, [f"--{way}", where, "--manifest", templates / "patches"])
