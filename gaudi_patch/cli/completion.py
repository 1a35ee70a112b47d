"""What the shell is offered for arguments and values; nothing, and no error, where nothing is known."""

from __future__ import annotations


def versions(incomplete: str) -> list[str]:
    """Return the releases with a series, newest first as in the manifest."""
    from gaudi_patch.errors import GaudiPatchError
    from gaudi_patch.series.manifest import load

    try:
        return [series.id for series in load().series if series.id.startswith(incomplete)]
    except GaudiPatchError:
        return []


def levels(incomplete: str) -> list[str]:
    """Smoke levels; of a list with commas, its last."""
    from gaudi_patch.smoke.levels import names

    done, comma, last = incomplete.rpartition(",")
    taken = done.split(",")
    return [f"{done}{comma}{name}" for name in names() if name.startswith(last) and name not in taken]


def devices(incomplete: str) -> list[str]:
    """Values of --device."""
    from gaudi_patch.smoke.levels import DEVICES

    return [name for name in DEVICES if name.startswith(incomplete)]


def rules(incomplete: str) -> list[str]:
    """Values of --rules."""
    from gaudi_patch.smoke.levels import RULES

    return [name for name in RULES if name.startswith(incomplete)]


def modes(incomplete: str) -> list[str]:
    """Modes of a recipe."""
    from gaudi_patch.recipes.compose import MODES

    return [name for name in MODES if name.startswith(incomplete)]


def targets(incomplete: str) -> list[str]:
    """What a recipe is started by."""
    from gaudi_patch.recipes.targets.write import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Models that are sized by name."""
    from gaudi_patch.sizing.models import names

    return [name for name in names() if name.startswith(incomplete)]


def guides(incomplete: str) -> list[str]:
    """Names of guides."""
    from gaudi_patch.guides import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]
