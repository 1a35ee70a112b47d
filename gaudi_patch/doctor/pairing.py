"""Checks that releases fit together: LMCache, vLLM, vllm-gaudi, transformers, the Gaudi software."""

from __future__ import annotations

from packaging.requirements import InvalidRequirement, Requirement

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.doctor.software import gaudi_versions
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.series import pairs

_NO_PLUGIN = "vllm-gaudi is not installed in the target"

#: vLLM release -> validated Gaudi software (docs/getting_started/compatibility_matrix.md)
VALIDATED = {
    "0.10.1": ("1.22.1",),
    "0.11.2": ("1.22.2", "1.23.0"),
    "0.13.0": ("1.23.0",),
    "0.14.1": ("1.23.0",),
    "0.15.1": ("1.23.0",),
    "0.16.0": ("1.23.0",),
    "0.17.1": ("1.23.0", "1.24.0"),
    "0.19.0": ("1.24.0",),
    "0.19.1": ("1.24.0",),
    "0.21.0": ("1.24.0",),
    "0.24.0": ("1.24.1",),
    "0.26.0": ("1.24.1",),
}


@check(
    "software.vllm-gaudi",
    "vLLM and its Gaudi plugin have the same version",
    why="vllm-gaudi X.Y.Z replaces parts of vLLM X.Y.Z; it does not fit another vLLM",
    source=sources.vllm_gaudi("README.md"),
)
def vllm_gaudi(case: Case) -> Answer:
    plugin, engine = case.version("vllm-gaudi"), case.version("vllm")
    if plugin is None and engine is None:
        return unknown("neither vLLM nor vllm-gaudi is installed in the target")
    if plugin is None:
        what = f"vLLM {engine} is installed without vllm-gaudi: it finds no HPU platform"
        fix = f"install vllm-gaudi {engine.base_version if engine else ''} from its repository (it is not on PyPI)"
        return failure(what, fix) if case.is_gaudi else unknown(what, fix)
    if engine is None:
        return failure(f"vllm-gaudi {plugin} is installed without vLLM", f"install vLLM {plugin.base_version}")
    if plugin.release != engine.release:
        return failure(f"vllm-gaudi {plugin} with vLLM {engine}", f"install vLLM {'.'.join(map(str, plugin.release))}")
    return ok(f"vLLM {engine}, vllm-gaudi {plugin}")


@check(
    "software.gaudi-release",
    "vllm-gaudi validated on this Gaudi software",
    why="other combinations may work and were not tested by vllm-gaudi's maintainers",
    source=sources.vllm_gaudi("docs/getting_started/compatibility_matrix.md", "main"),
)
def gaudi_release(case: Case) -> Answer:
    plugin, versions = case.version("vllm-gaudi"), gaudi_versions(case)
    if plugin is None:
        return unknown(_NO_PLUGIN)
    software = versions.get("habana-torch-plugin") or versions.get("SynapseAI")
    if software is None:
        return unknown("no Gaudi software found")
    tested = VALIDATED.get(plugin.base_version)
    if tested is None:
        return unknown(f"vllm-gaudi {plugin} is not in the compatibility matrix of August 2026")
    if not software.startswith(tested):
        fix = f"use Gaudi software {' or '.join(tested)}, or the vllm-gaudi that fits yours"
        return warning(f"vllm-gaudi {plugin} was not validated on Gaudi software {software}", fix)
    return ok(f"vllm-gaudi {plugin} is validated on Gaudi software {software}")


@check(
    "software.pairing",
    "LMCache and vllm-gaudi fit each other",
    why="vllm-gaudi releases pass KV caches in different forms, and LMCache releases import different vLLM versions",
    source="`gaudi-patch list` (the manifest's pairs)",
)
def pairing(case: Case) -> Answer:
    plugin = case.version("vllm-gaudi")
    lmcache = case.lmcache
    if isinstance(lmcache, GaudiPatchError) or not lmcache.version:
        return unknown("the version of LMCache is not known")
    if plugin is None:
        return unknown(_NO_PLUGIN)
    if pairs.together(case.manifest, lmcache.version, plugin):
        return ok(f"LMCache {lmcache.version} with vllm-gaudi {plugin}")
    if plugin.release < (0, 13):
        return failure(
            f"vllm-gaudi {plugin} calls no KV connector for LMCache: nothing is stored or loaded",
            "use vllm-gaudi 0.13.0 or later",
        )
    others = [pair.lmcache for pair in case.manifest.pairs if pairs.holds(pair, plugin)]
    return warning(
        f"LMCache {lmcache.version} with vllm-gaudi {plugin} is not a supported pair",
        f"install LMCache {' or '.join(others)}" if others else f"see `{case.command('list')}` for the pairs",
    )


@check(
    "software.transformers",
    "the transformers that vLLM, vllm-gaudi and LMCache require",
    why="vLLM imports its model code from transformers; with another major version, models do not load",
    source="Requires-Dist in the packages' own METADATA",
)
def transformers(case: Case) -> Answer:
    installed = case.version("transformers")
    if installed is None:
        return unknown("transformers is not installed in the target")
    unmet, seen = [], 0
    for package in ("vllm", "vllm-gaudi", "lmcache"):
        for text in case.installed.requirements(package, "transformers"):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            seen += 1
            if not wanted.specifier.contains(installed, prereleases=True):
                unmet.append(f"{package} requires {text}")
    if unmet:
        return warning(
            f"transformers {installed}, but {', '.join(unmet)}",
            "install the transformers that vllm-gaudi pins, and the LMCache that pairs with it: "
            f"`{case.command('list')}`",
        )
    if not seen:
        return unknown(f"transformers {installed}; no package in the target requires a version")
    return ok(f"transformers {installed}")


CHECKS = (vllm_gaudi, gaudi_release, pairing, transformers)
