"""Checks of LMCache's configuration as the installed LMCache loads it: what it drops, and what would happen."""

from __future__ import annotations

import re

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.doctor.room import room
from gaudi_patch.doctor.vllm_args import BLOCK_SIZE
from gaudi_patch.sizing.plan import GIB

_CONFIG_BASE = sources.lmcache("v1/config_base.py")
_FAILED = re.compile(r"^Failed to (convert|parse|set)")
_UNKNOWN = re.compile(r"^(Unknown configuration key: |Unknown config key: |Config key ')(?P<key>[\w.-]+)")


@check(
    "config.load",
    "LMCache loads its configuration",
    why="a configuration that LMCache refuses stops the server; one that it cannot find leaves the defaults",
    source=sources.lmcache("v1/config.py") + " (from_file, update_config_from_env, validate)",
)
def load(case: Case) -> Answer:
    file = case.config or case.environ.get("LMCACHE_CONFIG_FILE")
    where = str(file) if file else "LMCACHE_* variables and defaults"
    settings = case.settings
    if settings.refused:
        return failure(f"LMCache refuses {where}: {settings.problem}", "correct the file; see LMCache's guide")
    if settings.problem:
        return unknown(f"not loaded ({where}): {settings.problem}", "name LMCache's interpreter with --python")
    return ok(where)


@check(
    "config.values",
    "values that LMCache can read",
    why="LMCache logs a warning and uses nothing, or the default, instead of the value",
    source=_CONFIG_BASE + " (_apply_env_converter_safely)",
    needs=("settings",),
)
def values(case: Case) -> Answer:
    failed = [text for text in case.settings.warnings if _FAILED.match(text)]
    return failure("; ".join(failed), "correct the value") if failed else ok("all are read")


@check(
    "config.unknown-keys",
    "keys that LMCache knows",
    why="LMCache logs a warning and ignores what it does not know: a misspelt setting has no effect",
    source=_CONFIG_BASE + " (_resolve_config_aliases)",
    needs=("settings",),
)
def unknown_keys(case: Case) -> Answer:
    matches = [match["key"] for text in case.settings.warnings if (match := _UNKNOWN.match(text))]
    if not matches:
        return ok("all are known")
    aliases = case.settings.aliases or {}
    renamed = [f"{key} is called {aliases[key]} now" for key in matches if key in aliases]
    return warning(f"ignored: {', '.join(matches)}", "; ".join(renamed) or "correct or remove them")


@check(
    "config.deprecated-keys",
    "deprecated keys",
    why="a later LMCache may silently ignore them",
    source=_CONFIG_BASE + " (deprecated_configs)",
    needs=("settings",),
)
def deprecated_keys(case: Case) -> Answer:
    deprecated = [text for text in case.settings.warnings if "deprecated" in text]
    return warning("; ".join(deprecated), "use the new names") if deprecated else ok("none")


@check(
    "config.warnings",
    "other warnings of LMCache",
    why="LMCache changes contradictory settings, and reports that only in its log",
    source=sources.lmcache("v1/config.py") + " (_validate_config)",
    needs=("settings",),
)
def warnings(case: Case) -> Answer:
    told = [text for text in case.settings.warnings if not (_FAILED.match(text) or _UNKNOWN.match(text))]
    told = [text for text in told if "deprecated" not in text]
    if not told:
        return ok("nothing")
    return warning("; ".join(told), "use LMCache's value, so that the file matches what takes effect")


@check(
    "config.pd-role",
    "pd_role and kv_role",
    why="a sender is vLLM's producer, a receiver its consumer; if they are swapped, neither side receives anything",
    source=sources.vllm_gaudi("examples/lmcache/README.md"),
    needs=("settings", "connector"),
)
def pd_role(case: Case) -> Answer:
    assert case.arguments is not None
    if not case.settings.values.get("enable_pd"):
        return ok("no disaggregated prefill")
    mine, engine = case.settings.values.get("pd_role"), case.arguments.kv.get("kv_role")
    expected = {"sender": "kv_producer", "receiver": "kv_consumer"}.get(str(mine))
    if expected is None:
        return ok(f"pd_role {mine}")
    if engine not in (expected, "kv_both"):
        return failure(f"pd_role is {mine}, kv_role is {engine}", f"kv_role: {expected}")
    return ok(f"{mine}, {engine}")


@check(
    "config.chunk-size",
    "chunk size and block size",
    why="a chunk that ends inside a block shares it with the next one; multiprocess mode refuses such chunks",
    source=sources.lmcache("integration/vllm/vllm_multi_process_adapter.py") + " (lmcache_tokens_per_chunk)",
    needs=("settings",),
)
def chunk_size(case: Case) -> Answer:
    chunk = case.settings.values.get("chunk_size")
    if not isinstance(chunk, int) or chunk <= 0:
        return failure(f"chunk_size is {chunk!r}", "chunk_size: 256")
    given = case.arguments is not None and not case.arguments.problem
    block = case.arguments.number("block-size", BLOCK_SIZE) if given and case.arguments else BLOCK_SIZE
    if block <= 0 or chunk % block:
        fix = f"chunk_size: {max(1, round(chunk / max(block, 1))) * block}"
        return warning(f"chunks of {chunk} tokens, blocks of {block}", fix)
    return ok(f"chunks of {chunk} tokens, blocks of {block}{'' if given else ' (the default)'}")


@check(
    "config.unfull-chunk",
    "save_unfull_chunk",
    why="without the patch, every length of a partial last chunk compiles a separate graph",
    source=f"{sources.HABANA}/PyTorch/Model_Optimization_PyTorch/Dynamic_Shapes.html",
    needs=("settings",),
)
def unfull_chunk(case: Case) -> Answer:
    values = case.settings.values
    if not values.get("save_unfull_chunk"):
        return ok("off")
    if values.get("enable_pd"):
        return ok("on, as disaggregated prefill requires")
    if str(values.get("remote_url") or "").startswith("resp://"):
        return failure("save_unfull_chunk is on, and resp:// refuses it", "save_unfull_chunk: false")
    if case.is_patched:
        return ok("on; the patched connector pads partial chunks to one shape")
    return warning("save_unfull_chunk is on, and LMCache is not patched", case.command("apply"))


@check(
    "config.backends",
    "a place to keep chunks",
    why="without one, LMCache runs and stores nothing",
    source=sources.lmcache("v1/storage_backend/__init__.py"),
    needs=("settings",),
)
def backends(case: Case) -> Answer:
    values = case.settings.values
    extra = values.get("extra_config") or {}
    named = (
        "local_disk",
        "remote_url",
        "remote_storage_plugins",
        "storage_plugins",
        "enable_pd",
        "enable_p2p",
        "gds_path",
    )
    stores = [name for name in ("local_cpu", *named) if values.get(name)]
    stores += ["nixl"] if isinstance(extra, dict) and extra.get("enable_nixl_storage") else []
    if not stores:
        return failure(
            "local_cpu is off, and neither a disk nor a remote store is set", "local_cpu: true, or local_disk"
        )
    if values.get("local_disk") and not values.get("max_local_disk_size"):
        return failure("local_disk is set, and max_local_disk_size is 0: nothing fits", "max_local_disk_size: GB")
    return ok(", ".join(stores))


@check(
    "config.memory",
    "memory for LMCache's pool",
    why="each rank fills max_local_cpu_size GB of host memory; if the host has less, the kernel kills the server. A "
    "request larger than the pool can be neither stored nor loaded: the patched LMCache does not start",
    source=sources.lmcache("v1/storage_backend/local_cpu_backend.py") + "; `gaudi-patch size --help`",
    needs=("running", "settings"),
)
def memory(case: Case) -> Answer:
    size = case.settings.values.get("max_local_cpu_size")
    held = room(case, float(size)) if isinstance(size, int | float) else None
    if held is not None and held.short:
        return failure(held.seen, held.fix)
    total = re.search(r"^MemTotal: +(\d+) kB", case.host.read("/proc/meminfo") or "", re.MULTILINE)
    if not isinstance(size, int | float) or total is None:
        return unknown("the host's memory cannot be determined" if total is None else f"max_local_cpu_size is {size!r}")
    limit = case.host.read("/sys/fs/cgroup/memory.max") or "max"
    gigabytes = int(total[1]) / 1024**2
    if limit.isdigit():
        gigabytes = min(gigabytes, int(limit) / GIB)
    ranks = case.ranks or 1
    lower = f"max_local_cpu_size: {max(gigabytes * 0.5 / ranks, 0.1):.1f}, or more memory"
    if size > gigabytes:
        return failure(f"{size:g} GB for each rank, {gigabytes:.0f} GB in all", lower)
    assert held is not None
    seen = f"{size:g} GB for each of {ranks} rank(s), {gigabytes:.0f} GB in all"
    if held.pools is not None and size * held.pools > gigabytes:
        return failure(f"{held.pools} pools of {size:g} GB, {gigabytes:.0f} GB in all", lower)
    if held.pools is None and size * ranks > gigabytes:
        return warning(f"{seen}: enough for MLA models only, where one rank keeps the pool", lower)
    if size * (held.pools or ranks) > 0.8 * gigabytes:
        return warning(f"{seen}: this leaves little for loading the weights", lower)
    return ok(f"{seen}; {held.seen}")


CHECKS = (
    load,
    values,
    unknown_keys,
    deprecated_keys,
    warnings,
    pd_role,
    chunk_size,
    unfull_chunk,
    backends,
    memory,
)
