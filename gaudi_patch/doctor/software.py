"""Checks of the Gaudi software, and of packages that were pulled in with LMCache."""

from __future__ import annotations

import re
import shlex

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.output.wrapping import Whole

_PLUGIN = "habana-torch-plugin"
_CUDA = re.compile(r"(cupy-cuda|cuda-(python|bindings|pathfinder)|nvidia-|cufile-python|nixl-cu)")


@check(
    "software.interpreter",
    "the target's interpreter",
    why="everything else is read from this environment or reported by it",
    source="`gaudi-patch check --help`",
)
def interpreter(case: Case) -> Answer:
    installed = case.installed
    if installed.problem:
        return failure(installed.problem, installed.hint)
    if installed.python is None:
        return unknown(f"no interpreter is known ({installed.how}); files are read, nothing is run", "--python PYTHON")
    return ok(f"{installed.python} ({installed.how})")


def _release(version: str) -> str:
    """Return the release of a version: 1.24.0 for 1.24.0-743, 1.24.0.743 and 1.24.0-bd87f71."""
    match = re.match(r"\d+\.\d+\.\d+", version)
    return match[0] if match else version


def gaudi_versions(case: Case) -> dict[str, str]:
    """Return the versions of the Gaudi software that can be seen here, by component."""
    versions = {}
    if (driver := case.host.read("/sys/module/habanalabs/version")) and case.host.running:
        versions["driver"] = driver
    status = case.host.read("/var/lib/dpkg/status") or ""
    if match := re.search(r"^Package: habanalabs-graph\n(?:.+\n)*?Version: (.+)$", status, re.MULTILINE):
        versions["SynapseAI"] = match[1]
    if _PLUGIN in case.installed.packages:
        versions[_PLUGIN] = case.installed.packages[_PLUGIN].version
    return versions


@check(
    "software.synapse",
    "driver, SynapseAI and plugin are of one release",
    why="the PyTorch plugin is built for the graph compiler and the runtime of its own release",
    source=sources.VERIFICATION,
)
def synapse(case: Case) -> Answer:
    versions = gaudi_versions(case)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    if len(versions) < 2:
        seen = f"only {listed} can be seen" if versions else "no Gaudi software found"
        return unknown(f"{seen} (the packages of rpm systems are not read)", "rpm -q habanalabs-graph; hl-smi")
    short = {name: _release(version).rpartition(".")[0] for name, version in versions.items()}
    if {"SynapseAI", _PLUGIN} <= set(versions) and short["SynapseAI"] != short[_PLUGIN]:
        return failure(f"of different releases: {listed}", f"install the {_PLUGIN} of the installed SynapseAI")
    if len(set(short.values())) > 1:
        return warning(f"of different releases: {listed}", "update the host's driver to the release of the software")
    return ok(listed)


@check(
    "software.habana",
    "Intel's PyTorch plugin",
    why="torch.hpu is part of habana-torch-plugin, which is not on PyPI",
    source=f"{sources.HABANA}/Installation_Guide/Installers_Appendix.html",
)
def habana(case: Case) -> Answer:
    if plugin := case.installed.packages.get(_PLUGIN):
        return ok(f"{_PLUGIN} {plugin.version}")
    what = f"{_PLUGIN} is not installed in the target"
    fix = "point --python at the environment that serves, or start from an image of vault.habana.ai"
    return failure(f"{len(case.cards)} Gaudi card(s), but {what}", fix) if case.cards else unknown(what, fix)


@check(
    "software.torch",
    "PyTorch with Gaudi support",
    why="`pip install lmcache` may replace Gaudi's PyTorch with the CUDA one, which the plugin cannot load",
    source=f"{sources.HABANA}/Installation_Guide/Installers_Appendix.html; LMCache 0.3.2 METADATA (torch==2.7.0)",
)
def torch(case: Case) -> Answer:
    torch = case.installed.packages.get("torch")
    if torch is None:
        return unknown("PyTorch is not installed in the target")
    cuda = case.installed.torch_cuda()
    if cuda:
        what = f"PyTorch {torch.version} is built for CUDA {cuda}"
        if case.is_gaudi:
            return failure(
                what, "install the torch of your Gaudi release again; install LMCache with pip install --no-deps"
            )
        return unknown(f"{what}; there is no Gaudi software here, so this may be intended")
    if re.search(r"\+hpu|git", torch.version):
        return ok(f"PyTorch {torch.version}")
    return unknown(
        f"PyTorch {torch.version}: its version does not tell whether it supports Gaudi",
        "run doctor on a Gaudi host: device.torch-hpu tells",
    )


@check(
    "software.cuda-packages",
    "CUDA packages that LMCache pulled in",
    why="they show that LMCache was installed with its dependencies: gigabytes that cannot run here, and perhaps "
    "another PyTorch",
    source="Requires-Dist of LMCache 0.3.10 and later: cupy, cuda-python, nixl",
)
def cuda_packages(case: Case) -> Answer:
    cuda_packages = sorted(name for name in case.installed.packages if _CUDA.match(name))
    if not cuda_packages:
        return ok("none") if case.installed.packages else unknown("the packages of the target cannot be listed")
    listed = ", ".join(cuda_packages[:4]) + (f" and {len(cuda_packages) - 4} more" if len(cuda_packages) > 4 else "")
    if not case.is_gaudi:
        return unknown(f"{listed}: there is no Gaudi software here, so this may be intended")
    pip = [str(case.installed.python), "-m", "pip"] if case.installed.python else ["pip"]
    return warning(listed, Whole(shlex.join([*pip, "uninstall", "--yes", *cuda_packages])))


CHECKS = (interpreter, synapse, habana, torch, cuda_packages)
