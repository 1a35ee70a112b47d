"""Checks of vLLM's command line: the connector, its role, and the form of the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.engine.plan import State
from gaudi_patch.errors import GaudiPatchError

#: vllm-gaudi's default, in tokens (vllm_gaudi/platform.py)
BLOCK_SIZE = 128

_IN_PROCESS = ("LMCacheConnectorV1", "LMCacheConnectorV1Dynamic")
_EXAMPLE = '--kv-transfer-config \'{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}\''


@check(
    "vllm.arguments",
    "the command line can be read",
    why="it decides the connector, the block size and the ranks",
    source=sources.vllm("config/kv_transfer.py"),
)
def arguments(case: Case) -> Answer:
    if case.arguments is None:
        return unknown(case.lacking("arguments"))
    if case.arguments.problem:
        return failure(case.arguments.problem, f"for example {_EXAMPLE}")
    return ok(f"{len(case.arguments.options)} option(s), {len(case.arguments.kv)} of the KV transfer")


@check(
    "vllm.connector",
    "the KV connector",
    why="vllm-gaudi gives attention metadata to LMCache's own connector only: within a MultiConnector an unpatched "
    "LMCache loads nothing, and reports that it did",
    source=sources.vllm_gaudi("vllm_gaudi/v1/worker/hpu_model_runner.py"),
    needs=("arguments",),
)
def connector(case: Case) -> Answer:
    assert case.arguments is not None
    name = case.arguments.connector
    if name in (*_IN_PROCESS, "LMCacheMPConnector"):
        return ok(name)
    if name == "MultiConnector" and (parts := [part for part in case.arguments.parts if "LMCache" in part]):
        if case.is_patched:
            return ok(f"{', '.join(parts)} within a MultiConnector")
        return failure(f"{', '.join(parts)} within a MultiConnector, with an unpatched LMCache", case.command("apply"))
    if case.arguments.unread_file and not name:
        return unknown("vLLM's --config file may name one: see vllm.config-file", "give it with --vllm-args")
    if name:
        why = "vLLM calls only the connector that is named there: LMCache stores and loads nothing"
        return warning(f"{name} is not LMCache's", _EXAMPLE, why)
    why = "vLLM loads no KV connector unless one is configured: LMCache silently stores and loads nothing"
    return warning("no --kv-transfer-config: vLLM runs without LMCache", _EXAMPLE, why)


@check(
    "vllm.use-native",
    "use_native",
    why="vLLM's built-in copy of the adapter moves slot mappings with .cuda()",
    source=sources.vllm("distributed/kv_transfer/kv_connector/v1/lmcache_integration/vllm_v1_adapter.py"),
    needs=("connector",),
)
def use_native(case: Case) -> Answer:
    assert case.arguments is not None
    if case.arguments.extra.get("use_native"):
        return failure("use_native is on", "leave use_native out of kv_connector_extra_config")
    return ok("off")


@check(
    "vllm.role",
    "kv_role",
    why="a producer loads nothing and a consumer stores nothing; vLLM refuses a connector without a role",
    source=sources.vllm("config/kv_transfer.py"),
    needs=("connector",),
)
def role(case: Case) -> Answer:
    assert case.arguments is not None
    value = case.arguments.kv.get("kv_role")
    if value == "kv_both":
        return ok("kv_both")
    if value not in ("kv_producer", "kv_consumer"):
        return failure(
            f"kv_role is {value or 'missing'}", "kv_both; kv_producer and kv_consumer for prefill and decode"
        )
    if case.settings.problem:
        return unknown(f"{value}: right for disaggregated prefill only, which LMCache's configuration tells")
    if not any(case.settings.values.get(name) for name in ("enable_pd", "remote_url", "remote_storage_plugins")):
        half = "loads" if value == "kv_producer" else "stores"
        return warning(f"{value}: this server never {half}, and no other server shares its cache", "kv_role: kv_both")
    return ok(f"{value}, with a partner")


@check(
    "vllm.block-size",
    "--block-size",
    why="Gaudi's paged attention is built for blocks of 128 tokens",
    source=sources.vllm_gaudi("vllm_gaudi/platform.py"),
    needs=("arguments",),
)
def block_size(case: Case) -> Answer:
    assert case.arguments is not None
    size = case.arguments.number("block-size", BLOCK_SIZE)
    if size % BLOCK_SIZE:
        return warning(f"blocks of {size} tokens", "leave --block-size out: vllm-gaudi takes 128")
    return ok(f"{size} tokens")


@check(
    "vllm.kv-cache-dtype",
    "--kv-cache-dtype",
    why="besides the model's own dtype, vllm-gaudi supports only fp8_inc",
    source=sources.vllm_gaudi("vllm_gaudi/platform.py") + " (is_kv_cache_dtype_supported)",
    needs=("arguments",),
)
def kv_cache_dtype(case: Case) -> Answer:
    assert case.arguments is not None
    value = str(case.arguments.options.get("kv-cache-dtype", "auto"))
    if value == "fp8_inc":
        return ok("fp8_inc; its scales are not stored: share it only between instances of one calibration")
    if value.startswith("fp8"):
        return failure(f"--kv-cache-dtype {value}", "--kv-cache-dtype fp8_inc, or leave it out")
    return ok(value)


#: Lookups use Unix sockets, one per rank (lmcache/v1/lookup_client/factory.py, lmcache/v1/rpc_utils.py).
_LOOKUPS = "lookups reach only the ranks on the scheduler's own host: each one times out and finds nothing"
_ONE_HOST = "an engine on each host over one store, or vLLM without LMCache: gaudi-patch guide production"


@check(
    "vllm.ranks",
    "cards for all ranks",
    why="each rank owns one card",
    source=sources.bridge("backend/habana_device/HPUGuardImpl.h"),
    needs=("running", "arguments"),
)
def ranks(case: Case) -> Answer:
    assert case.arguments is not None
    wanted = case.arguments.ranks
    hosts = case.arguments.number("nnodes", 1)
    if hosts > 1 and case.arguments.connector == "LMCacheConnectorV1":
        return failure(f"the model spans {hosts} hosts, and {_LOOKUPS}", _ONE_HOST)
    if case.arguments.options.get("distributed-executor-backend") == "ray":
        return unknown(f"Ray places {wanted} rank(s), perhaps on several hosts; there {_LOOKUPS}", "ray status")
    count = case.hpu.torch.count or len(case.cards)
    if not count:
        return unknown(f"{wanted} rank(s); no card found here")
    if wanted > count:
        fix = "lower --tensor-parallel-size, or give the container more cards"
        return failure(f"{wanted} ranks for {count} card(s)", fix)
    return ok(f"{wanted} rank(s), {count} card(s)")


@check(
    "vllm.multiprocess",
    "LMCache in a separate server",
    why="on HPU the engine drives the transfer; the server supports that only if configured, and clients wait 300 s",
    source=sources.lmcache("v1/multiprocess/config.py") + " (--supported-transfer-mode, default lmcache_driven)",
    needs=("connector",),
)
def multiprocess(case: Case) -> Answer:
    assert case.arguments is not None
    if case.arguments.connector != "LMCacheMPConnector":
        return ok("not used")
    version = case.version("lmcache")
    if version is None:
        return unknown("the version of LMCache is not known")
    if version.release < (0, 5, 5):
        return failure(
            f"LMCacheMPConnector with LMCache {version}: layers of (K, V) pairs are not served", "LMCache 0.5.5"
        )
    servers = list(_servers(case))
    if not servers:
        return unknown("no LMCache server found here", "start it with: lmcache server --supported-transfer-mode auto")
    modes = [_after(words, "--supported-transfer-mode") for words in servers]
    if wrong := [mode for mode in modes if mode not in ("auto", "engine_driven")]:
        what = f"--supported-transfer-mode is {wrong[0] or 'missing, which is lmcache_driven'}"
        return failure(what, "start the server with --supported-transfer-mode auto")
    return ok(f"a server runs, --supported-transfer-mode {modes[0]}")


def _servers(case: Case) -> Iterator[list[str]]:
    """Yield the command lines of the LMCache servers on this host."""
    for name in case.host.names("/proc"):
        if not name.isdecimal():
            continue
        words = (case.host.read(f"/proc/{name}/cmdline") or "").split("\0")
        called = [before.rpartition("/")[2] for before, word in pairwise(words) if word == "server"]
        if any(word in ("lmcache", "lmcache.cli.main") for word in called):
            yield words


def _after(words: list[str], option: str) -> str:
    """Return the value of the last ``option``; "" if it is not given."""
    found = ""
    for word, value in pairwise([*words, ""]):
        if word == option:
            found = value
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


@check(
    "vllm.lora",
    "--enable-lora: adapters in LMCache's keys",
    why="as released, LMCache's keys cover only tokens: KV of one LoRA adapter, cache_salt or image is served to "
    "another",
    source=sources.lmcache("utils.py") + " (CacheEngineKey); capability request-identity",
    needs=("connector",),
)
def lora(case: Case) -> Answer:
    assert case.arguments is not None
    if not case.arguments.options.get("enable-lora"):
        return ok("off")
    situation = case.situation
    if isinstance(case.lmcache, GaudiPatchError) or isinstance(situation, GaudiPatchError):
        return unknown("the state of the patch is not known: see patch.state")
    version = case.version("lmcache")
    if case.arguments.connector == "LMCacheMPConnector" and version is not None and version.release < (0, 4, 5):
        return failure(
            f"the multiprocess keys of LMCache {version} have no room for an adapter", "LMCache 0.4.5 or later"
        )
    if situation.state is not State.PATCHED or (
        situation.applied and "request-identity" not in situation.applied.capabilities
    ):
        return failure("adapters share their KV: the keys of this LMCache do not include them", case.command("apply"))
    return ok("keys include the adapter's name and path: give changed weights a new name")


@check(
    "vllm.sleep-mode",
    "--enable-sleep-mode",
    why="waking up gives vLLM new KV caches, and LMCache can register them only once (the patched LMCache refuses to "
    "start)",
    source=sources.vllm_gaudi("vllm_gaudi/v1/worker/hpu_worker.py") + " (wake_up)",
    needs=("connector",),
)
def sleep_mode(case: Case) -> Answer:
    assert case.arguments is not None
    if "enable-sleep-mode" in case.arguments.options:
        return failure("--enable-sleep-mode", "leave --enable-sleep-mode out")
    return ok("off")


CHECKS = (arguments, connector, use_native, role, block_size, kv_cache_dtype, ranks, multiprocess, lora, sleep_mode)
