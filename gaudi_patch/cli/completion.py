"""Shell completion for arguments and option values: offer nothing, without an error, if the values are unknown."""

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
    """Return smoke levels; for a comma-separated list, complete its last entry."""
    from gaudi_patch.smoke.levels import names

    done, comma, last = incomplete.rpartition(",")
    taken = done.split(",")
    return [f"{done}{comma}{name}" for name in names() if name.startswith(last) and name not in taken]


def devices(incomplete: str) -> list[str]:
    """Return the values of --device."""
    from gaudi_patch.smoke.levels import DEVICES

    return [name for name in DEVICES if name.startswith(incomplete)]


def rules(incomplete: str) -> list[str]:
    """Return the values of --rules."""
    from gaudi_patch.smoke.levels import RULES

    return [name for name in RULES if name.startswith(incomplete)]


def modes(incomplete: str) -> list[str]:
    """Return the modes of `recipe`."""
    from gaudi_patch.recipes.compose import MODES

    return [name for name in MODES if name.startswith(incomplete)]


def targets(incomplete: str) -> list[str]:
    """Return the values of --target."""
    from gaudi_patch.recipes.targets.write import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Return the models that can be sized by name."""
    from gaudi_patch.sizing.models import names

    return [name for name in names() if name.startswith(incomplete)]


def guides(incomplete: str) -> list[str]:
    """Return the names of the guides."""
    from gaudi_patch.guides import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]
