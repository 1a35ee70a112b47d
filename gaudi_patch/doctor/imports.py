"""Checks of LMCache's imports: packages that are not installed, and failures that LMCache ignores."""

from __future__ import annotations

import shlex

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import NOT_FOUND, Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.wrapping import Whole
from gaudi_patch.target.requirements import distributions, needs

_NO_PYTHON = "the interpreter of the target is not known"


def _version(case: Case) -> str:
    """Return the release of the only LMCache; "" if there is none, or it is a checkout."""
    return "" if isinstance(case.lmcache, GaudiPatchError) else case.lmcache.version or ""


def install_command(case: Case) -> Whole:
    """Return the bash command that installs the missing packages and changes no other."""
    asked = shlex.join(["gaudi-patch", "requirements", _version(case), "--python", str(case.installed.python)])
    pip = shlex.join([str(case.installed.python), "-m", "pip", "install"])
    return Whole(f"{pip} -r <({asked}) -c <({asked} --constraints)")


@check(
    "software.requirements",
    "LMCache's requirements, without CUDA's packages",
    why="LMCache is installed without its dependencies, so that none of them replaces Gaudi's PyTorch",
    source="Requires-Dist of the installed LMCache",
    needs=("running",),
)
def requirements(case: Case) -> Answer:
    version, python = _version(case), case.installed.python
    if not version:
        return unknown(NOT_FOUND)
    if python is None:
        return unknown(_NO_PYTHON, "--python PYTHON")
    try:
        missing = needs(version, distributions(python, case.environ)).missing
    except GaudiPatchError as error:
        return unknown(error.message, error.hint)
    if not missing:
        return ok(f"everything that LMCache {version} requires is installed")
    return warning(f"{len(missing)} not installed: {', '.join(missing)}", install_command(case))


@check(
    "software.lmcache-imports",
    "LMCache's compiled extensions and its device can be imported",
    why="LMCache logs a warning and continues without them; it fails later with `cannot import name 'device_ops'`",
    source=sources.lmcache("__init__.py"),
    needs=("running",),
)
def imports(case: Case) -> Answer:
    if not _version(case):
        return unknown(NOT_FOUND)
    if case.installed.torch is None:
        return unknown("PyTorch is not installed in the target, and LMCache's extensions need it", "see software.torch")
    cause = case.first_cause
    if cause.problem:
        return unknown(cause.problem)
    if not cause.what:
        return ok("none is missing")
    return failure(cause.what, install_command(case) if cause.missing else cause.advice)


CHECKS = (requirements, imports)
