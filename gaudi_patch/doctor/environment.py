"""Checks of environment variables that change what runs on the card, or what LMCache finds."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.errors import GaudiPatchError

_NOT_SET = "not set"


def is_on(value: str | None) -> bool:
    """Return whether vllm-gaudi reads ``value`` as true (vllm_gaudi/extension/config.py, boolean)."""
    return value is not None and value.lower() in ("true", "t", "1", "yes", "y", "on")


def _version(case: Case) -> str:
    return "" if isinstance(case.lmcache, GaudiPatchError) else case.lmcache.version


def _within(version: str, versions: str) -> bool:
    return bool(version) and SpecifierSet(versions).contains(version, prereleases=True)


@check(
    "env.lazy-mode",
    "PT_HPU_LAZY_MODE",
    why="1 (lazy) and 0 (eager, torch.compile) run different code; in lazy mode `import torch` alone does not provide "
    "torch.hpu, so an unpatched LMCache uses the CPU",
    source=sources.bridge("python_packages/habana_frameworks/autoload/__init__.py"),
    needs=("running",),
)
def lazy_mode(case: Case) -> Answer:
    value = case.environ.get("PT_HPU_LAZY_MODE")
    if value not in (None, "0", "1"):
        return warning(f"PT_HPU_LAZY_MODE={value}: the bridge treats anything but 0 as lazy", "set it to 0 or 1")
    if value == "1" and not isinstance(case.lmcache, GaudiPatchError) and not case.is_patched:
        return warning("PT_HPU_LAZY_MODE=1 with an unpatched LMCache", case.command("apply"))
    return ok(f"PT_HPU_LAZY_MODE={value}" if value else f"{_NOT_SET}: the installed bridge decides")


@check(
    "env.gpu-migration",
    "PT_HPU_GPU_MIGRATION",
    why="it makes torch.cuda.is_available() true: LMCache 0.3.7 to 0.4.3 then import CUDA kernels, 0.5.2 and 0.5.3 "
    "treat the device as CUDA",
    source=sources.vllm_gaudi("vllm_gaudi/__init__.py"),
    needs=("running",),
)
def gpu_migration(case: Case) -> Answer:
    if not is_on(case.environ.get("PT_HPU_GPU_MIGRATION")):
        return ok("off")
    what = "PT_HPU_GPU_MIGRATION is on"
    fix = "unset PT_HPU_GPU_MIGRATION: the patched LMCache does not need it"
    if _within(_version(case), ">=0.3.7,<0.4.4") and not case.is_patched:
        return failure(f"{what}, and LMCache {_version(case)} is not patched: its import fails", fix)
    if _within(_version(case), ">=0.5.2,<0.5.4") and not case.is_patched:
        return failure(f"{what}, and LMCache {_version(case)} is not patched: it uses CUDA", fix)
    return warning(what, fix)


@check(
    "env.visible-devices",
    "HABANA_VISIBLE_DEVICES",
    why="the container runtime passes in the cards that it lists, and none if it is not set",
    source=sources.TENANTS,
    needs=("running",),
)
def visible_devices(case: Case) -> Answer:
    value = case.environ.get("HABANA_VISIBLE_DEVICES")
    if value is None:
        return ok(f"{_NOT_SET}: not needed outside containers")
    if value == "all":
        return ok("all")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    fix = "HABANA_VISIBLE_DEVICES=all, or indices such as 0,1,2,3 (hl-smi -Q index,module_id -f csv)"
    if not parts or value in ("none", "void"):
        return failure(f"HABANA_VISIBLE_DEVICES={value!r} gives the container no card", fix)
    if not all(part.isdigit() for part in parts):
        return unknown(f"HABANA_VISIBLE_DEVICES={value} is not a list of indices", fix)
    if len(set(parts)) < len(parts):
        return warning(f"HABANA_VISIBLE_DEVICES={value} lists a card twice", fix)
    if case.cards and (beyond := [part for part in parts if int(part) >= len(case.cards)]):
        return failure(f"HABANA_VISIBLE_DEVICES={value}, but this host has {len(case.cards)} card(s): {beyond}", fix)
    if case.ranks and len(parts) < case.ranks:
        return failure(f"{len(parts)} card(s) in HABANA_VISIBLE_DEVICES for {case.ranks} ranks", fix)
    return ok(value)


@check(
    "env.visible-modules",
    "HABANA_VISIBLE_MODULES",
    why="each rank takes the module at its own position in the list; a rank without an entry cannot start",
    source=sources.bridge("python_packages/habana_frameworks/torch/distributed/hccl/__init__.py"),
    needs=("running",),
)
def visible_modules(case: Case) -> Answer:
    value = case.environ.get("HABANA_VISIBLE_MODULES")
    if value is None:
        return ok(f"{_NOT_SET}: all modules")
    parts = [part.strip() for part in value.split(",")]
    fix = "give module numbers, each once, one for each rank (hl-smi -Q index,module_id -f csv)"
    if not all(part.isdigit() for part in parts):
        return failure(f"HABANA_VISIBLE_MODULES={value!r} is not a list of numbers: the bridge cannot read it", fix)
    if len(set(parts)) < len(parts):
        return failure(f"HABANA_VISIBLE_MODULES={value} lists a module twice", fix)
    if any(int(part) > 7 for part in parts):
        return warning(f"HABANA_VISIBLE_MODULES={value}: the bridge counts eight modules, 0 to 7", fix)
    if case.ranks and len(parts) < case.ranks:
        return failure(f"{len(parts)} module(s) in HABANA_VISIBLE_MODULES for {case.ranks} ranks", fix)
    return ok(value)


@check(
    "env.module-id",
    "HLS_MODULE_ID",
    why="a process takes exactly the card that it names; if all ranks inherit it, they all try to take the same card",
    source=sources.ASSIGNMENT,
    needs=("running",),
)
def module_id(case: Case) -> Answer:
    value = case.environ.get("HLS_MODULE_ID")
    if value is None:
        return ok(_NOT_SET)
    fix = "unset HLS_MODULE_ID and list the modules in HABANA_VISIBLE_MODULES"
    if case.ranks is None:
        return warning(f"HLS_MODULE_ID={value}: right for one process only", fix)
    return failure(f"HLS_MODULE_ID={value} for {case.ranks} ranks", fix) if case.ranks > 1 else ok(value)


@check(
    "env.device-type",
    "DEVICE_TYPE, LMCACHE_DEVICE_BACKEND",
    why="LMCache 0.5.2 and later try the named device first; a missing backend is an error, a missing type only a "
    "warning in the log",
    source=sources.lmcache("v1/platform/_device_detect.py"),
    needs=("running",),
)
def device_type(case: Case) -> Answer:
    given = {name: case.environ[name] for name in ("DEVICE_TYPE", "LMCACHE_DEVICE_BACKEND") if case.environ.get(name)}
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    wrong = [name for name, value in given.items() if value.strip().lower() != "hpu"]
    if not wrong:
        return ok(listed or _NOT_SET)
    if _within(_version(case), "<0.5.2"):
        return ok(f"{listed}: not read by LMCache {_version(case)}")
    answer = failure if "LMCACHE_DEVICE_BACKEND" in wrong else warning
    return answer(f"{listed} is not the HPU", f"unset {' and '.join(wrong)}")


@check(
    "env.plugins",
    "VLLM_PLUGINS",
    why="vLLM loads only the plugins that it lists: vllm-gaudi has one for the platform, hpu, and several for its "
    "operators and models",
    source=sources.vllm("plugins/__init__.py") + "; " + sources.vllm_gaudi("setup.py"),
    needs=("running",),
)
def plugins(case: Case) -> Answer:
    value = case.environ.get("VLLM_PLUGINS")
    if value is None:
        return ok(f"{_NOT_SET}: all plugins are loaded")
    listed = value.split(",")
    fix = "unset VLLM_PLUGINS, or add what is missing"
    if "hpu" not in listed:
        return failure(f"VLLM_PLUGINS={value!r} leaves out vllm-gaudi's platform, hpu", fix)
    names = case.installed.entry_points("vllm-gaudi", "vllm.general_plugins")
    missing = [name for name in names if name not in listed]
    return warning(f"VLLM_PLUGINS leaves out {', '.join(missing)}", fix) if missing else ok(value)


@check(
    "env.fake-hpu",
    "VLLM_USE_FAKE_HPU",
    why="vllm-gaudi then takes code paths meant for tests without a card",
    source=sources.vllm_gaudi("vllm_gaudi/extension/utils.py"),
    needs=("running",),
)
def fake_hpu(case: Case) -> Answer:
    value = case.environ.get("VLLM_USE_FAKE_HPU", "0")
    if value == "0":
        return ok("off")
    answer = failure if case.cards else warning
    return answer(f"VLLM_USE_FAKE_HPU={value}", "unset VLLM_USE_FAKE_HPU")


CHECKS = (
    lazy_mode,
    gpu_migration,
    visible_devices,
    visible_modules,
    module_id,
    device_type,
    plugins,
    fake_hpu,
)
