"""A recipe and a target's name -> the recipe with the files that start it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.recipes import ports
from gaudi_patch.recipes.release import Release
from gaudi_patch.recipes.settings import DISK_GB, Recipe, Settings

NAMES = ("scripts", "systemd", "compose", "kubernetes")
#: Directory of a recipe's files for systemd, without --out.
FOLDER = PurePosixPath("/etc/lmcache")
#: An image's name, such as registry.example:5000/name:tag@sha256:..., checked loosely.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


def check(target: str, image: str) -> None:
    """Raise a usage error for an unknown target, or for an image that is missing, useless or malformed."""
    if target not in NAMES:
        what = f"no target is called {target!r}{did_you_mean(target, NAMES)}"
        raise GaudiPatchError(Exit.USAGE, "unknown-target", what, f"targets: {', '.join(NAMES)}")
    contained = target in ("compose", "kubernetes")
    if contained and not image:
        raise _usage(
            f"--target {target} needs --image, an image with vLLM, vllm-gaudi and the patched LMCache",
            "build it as described in gaudi_patch/container/README.md, and pass its name: --image NAME",
        )
    if image and not contained:
        raise _usage(f"--image: has no effect with --target {target}")
    if image and not _IMAGE.fullmatch(image):
        raise _usage(f"--image {image!r}: must be a name such as registry.example/vllm-gaudi-lmcache:1")


def start(
    target: str, image: str, mode: str, release: Release, settings: Settings, recipe: Recipe, *,
    weights: int | None, folder: PurePosixPath | None,
) -> Recipe:  # fmt: skip
    """Return ``recipe`` with the files of ``target`` and notes on them.

    ``weights`` are the bytes of the model's weights, None if unknown. ``folder`` is the absolute path of the directory
    for the files.
    """
    check(target, image)
    if target == "scripts":
        return recipe
    from gaudi_patch.recipes.targets import containers, kubernetes, systemd
    from gaudi_patch.recipes.targets.plan import plan

    planned = plan(mode, release, settings, recipe, weights)
    if target == "systemd":
        where = FOLDER if folder is None else folder
        files, notes = systemd.files(planned, where), systemd.notes(planned, where)
    elif target == "compose":
        # All containers share the network of one host.
        ports.refuse_collisions(
            mode, settings, [process for process in recipe.processes if process.ports], one_host=True
        )
        files, notes = containers.files(planned, image), containers.notes(planned)
    else:
        disk = DISK_GB if settings.disk_gb is None else settings.disk_gb
        return replace(
            recipe,
            files=kubernetes.files(planned, image, disk),
            notes=(*recipe.notes, *kubernetes.notes(planned), *_sized(weights)),
        )
    return replace(recipe, files={**recipe.files, **files}, notes=(*recipe.notes, *notes, *_sized(weights)))


def _sized(weights: int | None) -> tuple[str, ...]:
    if weights is not None:
        return ()
    return (
        "The size of the model's weights is not known, so the memory limits do not include it: add it, or pass "
        "--model-config.",
    )


def _usage(message: str, hint: str = "see `gaudi-patch recipe --help`") -> GaudiPatchError:
    return GaudiPatchError(Exit.USAGE, "usage", message, hint)
