"""Requirements of an LMCache release on a Gaudi: its metadata's without CUDA's, and which of them an image lacks.

The requirements of the known releases are in ``requires_dist.json``, as their wheels' METADATA has them (written by
``python -m gaudi_patch.authoring.requires_dist``), since they are needed before LMCache is installed. For any other
release they are read from the installed metadata.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TABLE = Path(__file__).with_name("requires_dist.json")
_ASK_SECONDS = 60.0

#: CUDA packages by parts of their names: cupy-cuda13x, cufile-python, nixl-cu13, nvidia-ml-py, cuda-python.
_CUDA = re.compile(r"(?:^|-)(?:cuda|cufile|cupy|nixl|nvidia|pynvml)(?:-|\d|$)|-cu(?:da)?\d")
#: Declared, but needed only to build or test LMCache.
BUILD_ONLY = frozenset({"pytest", "setuptools", "setuptools-scm"})
#: The image's own, which must never be replaced by a package from an index.
DEVICE = frozenset({"torch"})


def is_cuda(name: str) -> bool:
    """Return whether a distribution is only for CUDA, by its name."""
    return _CUDA.search(_normal(name)) is not None


@dataclass(frozen=True)
class Distributions:
    """An interpreter's distributions: versions by normalised name, LMCache's own requirements, and marker values."""

    versions: Mapping[str, str]
    requires: tuple[str, ...] | None = None
    markers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """The requirements of a release on a Gaudi, compared with an interpreter's distributions.

    missing: to be installed. If the image has a newer package of the same family (opentelemetry-...) than the release
        requires, the upper bound is dropped, because constraints keep the image's.
    other: installed in a version outside the requirement, with that version; the image keeps it.
    left_out: CUDA packages, PyTorch, and build requirements.
    """

    version: str
    missing: tuple[str, ...]
    other: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


def table() -> dict[str, list[str]]:
    """Return Requires-Dist of each known release, by version."""
    import json

    loaded: dict[str, list[str]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return loaded


def distributions(python: Path, environ: Mapping[str, str] = os.environ) -> Distributions:
    """Ask ``python`` for its distributions without importing them. Raises GaudiPatchError."""
    from gaudi_patch.target.ask import AskError, Fields, ask

    try:
        # Not isolated: LMCache also sees the image's PYTHONPATH and the user's packages.
        answer: Any = ask(python, "list_distributions.py", timeout=_ASK_SECONDS, environ=environ, flags=("-B",))
        fields = Fields(answer)
        versions, markers = answer["versions"], answer["markers"]
        requires = None if answer["requires"] is None else fields.texts("requires")
    except (AskError, KeyError, TypeError) as error:
        message = f"{python} did not report its packages: {error}"
        raise GaudiPatchError(
            Exit.ENVIRONMENT, "no-interpreter", message, "choose an interpreter with --python"
        ) from None
    return Distributions(
        {_normal(str(name)): str(version) for name, version in versions.items()},
        requires,
        {str(name): str(value) for name, value in markers.items()},
    )


def needs(version: str, there: Distributions | None) -> Needs:
    """Compare the requirements of LMCache ``version`` with the distributions (None: with nothing).

    Raises GaudiPatchError for a release that is neither known nor installed.
    """
    missing, other, left_out = [], [], []
    for requirement in _applying(_declared(version, there), there):
        name = _normal(requirement.name)
        if is_cuda(name) or name in BUILD_ONLY | DEVICE:
            left_out.append(_text(requirement))
        elif there is None or name not in there.versions:
            missing.append(requirement)
        elif not requirement.specifier.contains(there.versions[name], prereleases=True):
            other.append((_text(requirement), there.versions[name]))
    moved = {_family(text) for text, _ in other}
    wanted = (_unbounded(needed) if _family(needed.name) in moved else _text(needed) for needed in missing)
    return Needs(version, tuple(wanted), tuple(other), tuple(left_out))


def _text(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _family(name: str) -> str:
    return _normal(re.split(r"[^A-Za-z0-9._-]", name)[0]).partition("-")[0]


def _unbounded(requirement: Requirement) -> str:
    """Drop the upper bound: packages of one family move together, and the image has a newer one."""
    kept = [str(clause) for clause in requirement.specifier if clause.operator not in {"<", "<="}]
    return f"{requirement.name}{','.join(sorted(kept))}"


def constraints(there: Distributions, needs: Needs) -> list[str]:
    """Return a constraint for each installed distribution, so that an installer changes none.

    One exception: an older setuptools than LMCache declares gets LMCache's range. It is never asked for, but packages
    that are need it (grpcio-observability), and a plain environment has that of its Python.
    """
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    declared = {_normal(one.name): one for one in map(Requirement, needs.left_out)}
    lines = []
    for name, version in sorted(there.versions.items()):
        try:
            pin = f"{name}=={Version(version)}"
        except InvalidVersion:
            continue  # no constraint can express it
        build = declared.get(name) if name in BUILD_ONLY else None
        lowest = [Version(one.version) for one in build.specifier if one.operator == ">="] if build else []
        lines.append(_text(build) if build and any(Version(version) < one for one in lowest) else pin)
    return lines


def _declared(version: str, there: Distributions | None) -> Iterable[str]:
    if there is not None and there.requires is not None and there.versions.get("lmcache") == version:
        return there.requires
    known = table()
    if version not in known:
        raise GaudiPatchError(
            Exit.NOT_FOUND,
            "unknown-version",
            f"the requirements of LMCache {version} are not known here{did_you_mean(version, known)}",
            f"install it without dependencies (pip install --no-deps lmcache=={version}) and point --python at its "
            f"interpreter, so that its own metadata is read",
        )
    return known[version]


def _applying(lines: Iterable[str], there: Distributions | None) -> list[Requirement]:
    """Return the requirements that apply without an extra in this interpreter; without one, under any marker."""
    from packaging.requirements import InvalidRequirement, Requirement

    applying = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            message = f"LMCache's metadata has a requirement that cannot be read: {line[:200]!r} ({error})"
            raise GaudiPatchError(Exit.REFUSED, "bad-metadata", message, "reinstall LMCache") from None
        environment = {**(there.markers if there else {}), "extra": ""}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            applying.append(requirement)
    return sorted(applying, key=lambda requirement: _normal(requirement.name))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
