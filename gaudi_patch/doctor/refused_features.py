"""Features of LMCache that have no implementation on HPU; the patched LMCache refuses to start with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, Check, failure, ok, unknown
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.reading import read_bytes

_RUNTIME = "lmcache/gaudi/guards.py of the patched LMCache"

#: Maps the settings to what is wrong, "" for nothing.
Test = Callable[[Mapping[str, Any]], str]


def _is_on(name: str) -> Test:
    return lambda values: f"{name} is {values[name]}" if values.get(name) else ""


def _serde(values: Mapping[str, Any]) -> str:
    value = values.get("remote_serde")
    return "" if value in (None, "naive") else f"remote_serde is {value}"


def _gds(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} is {values[name]}" for name in ("gds_path", "weka_path") if values.get(name))


def _device(name: str, wanted: Callable[[Mapping[str, Any]], object]) -> Test:
    def test(values: Mapping[str, Any]) -> str:
        device = str(values.get(name) or "").split(":")[0]
        return f"{name} is {values.get(name)}" if wanted(values) and device != "cpu" else ""

    return test


def _nixl(values: Mapping[str, Any]) -> object:
    extra = values.get("extra_config")
    return isinstance(extra, dict) and extra.get("enable_nixl_storage")


def _refusal(name: str, asks: str, why: str, test: Test, fix: str, source: str = _RUNTIME) -> Check:
    def run(case: Case) -> Answer:
        what = test(case.settings.values)
        return failure(what, fix) if what else ok("not used")

    return Check(name, asks, why, source, ("settings",), run)


def _pd(case: Case) -> Answer:
    if not case.settings.values.get("enable_pd"):
        return ok("not used")
    if isinstance(case.lmcache, GaudiPatchError):
        return unknown("the files of LMCache are not known")
    text = _source(case.lmcache.root / "lmcache/v1/storage_backend/pd_backend.py")
    if text and b"init_cpu_memory_allocator" not in text:
        fix = "enable_pd: false, or LMCache 0.3.14 or later with pd_buffer_device: cpu"
        return failure("enable_pd is on, and this release needs a buffer in CUDA memory", fix)
    what = _device("pd_buffer_device", lambda _: True)(case.settings.values)
    return failure(what, "pd_buffer_device: cpu") if what else ok("on the host")


def _lazy_allocator(case: Case) -> Answer:
    if not case.settings.values.get("enable_lazy_memory_allocator"):
        return ok("not used")
    if isinstance(case.lmcache, GaudiPatchError):
        return unknown("the files of LMCache are not known")
    if b".cudart()" in _source(case.lmcache.root / "lmcache/v1/lazy_memory_allocator.py"):
        fix = "enable_lazy_memory_allocator: false"
        return failure("enable_lazy_memory_allocator is on, and this release pins with CUDA's runtime", fix)
    return ok("on; this release pins without CUDA's runtime")


def _source(path: Path) -> bytes:
    """Return the bytes of a module; none if this release keeps it elsewhere."""
    try:
        return read_bytes(path)
    except OSError:
        return b""


CHECKS = (
    _refusal(
        "config.layerwise",
        "use_layerwise",
        "vllm-gaudi never calls the connector layer by layer",
        _is_on("use_layerwise"),
        "use_layerwise: false",
        sources.vllm_gaudi("vllm_gaudi/ops/hpu_attention.py"),
    ),
    _refusal(
        "config.blending",
        "enable_blending",
        "it works layer by layer, which vllm-gaudi never does",
        _is_on("enable_blending"),
        "enable_blending: false",
        sources.vllm_gaudi("vllm_gaudi/ops/hpu_attention.py"),
    ),
    _refusal(
        "config.serde",
        "remote_serde",
        "CacheGen encodes and decodes on a CUDA device",
        _serde,
        "remote_serde: naive",
    ),
    _refusal(
        "config.gds",
        "gds_path, weka_path",
        "GPUDirect Storage reads into CUDA memory",
        _gds,
        "remove gds_path and weka_path; local_disk keeps chunks on an NVMe or a mounted share",
    ),
    _refusal(
        "config.p2p",
        "enable_p2p",
        "LMCache's NIXL path registers memory by CUDA's pointer, which HPU memory does not have",
        _is_on("enable_p2p"),
        "enable_p2p: false; share through a remote store",
    ),
    _refusal(
        "config.bypass-lookup",
        "enable_scheduler_bypass_lookup",
        "the scheduler promises what no worker has in its memory, and vllm-gaudi cannot recompute what is lost",
        _is_on("enable_scheduler_bypass_lookup"),
        "enable_scheduler_bypass_lookup: false",
    ),
    Check(
        "config.pd-device",
        "pd_buffer_device",
        "LMCache's NIXL path cannot address HPU memory; a buffer on the host is accepted from LMCache 0.3.14 on",
        _RUNTIME,
        ("settings",),
        _pd,
    ),
    _refusal(
        "config.nixl-device",
        "nixl_buffer_device",
        "LMCache's NIXL path cannot address HPU memory; a buffer on the host is accepted",
        _device("nixl_buffer_device", _nixl),
        "nixl_buffer_device: cpu",
    ),
    Check(
        "config.lazy-allocator",
        "enable_lazy_memory_allocator",
        "from 0.3.13 to 0.5.0 it pins memory with CUDA's runtime",
        _RUNTIME,
        ("settings",),
        _lazy_allocator,
    ),
)
