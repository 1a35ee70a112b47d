"""The files of a recipe, from a mode and settings. Pure: it reads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gaudi_patch.recipes import multiprocess, ports, serve, stores, text
from gaudi_patch.recipes.process import Process
from gaudi_patch.recipes.release import Release, refuse_private_keys
from gaudi_patch.recipes.serve import prefill_port
from gaudi_patch.recipes.settings import CPU_GB, DISK_GB, Mode, Recipe, Settings, usage
from gaudi_patch.recipes.stores import LM_SERVER, Store
from gaudi_patch.recipes.text import BLOCK, CONFIG, Entry

__all__ = ["CPU_GB", "DISK_GB", "MODES", "Mode", "Recipe", "Settings", "compose"]

_STORAGE, _DISK = frozenset({"--storage"}), frozenset({"--disk-gb"})
_BOTH = _STORAGE | _DISK
PROXY = "examples/lmcache/disagg_prefill_lmcache_v1/disagg_proxy_server.py"


def compose(mode: Mode, release: Release, settings: Settings) -> Recipe:
    """Return the recipe; raise a refusal if the release cannot run it on HPU, and a usage error for bad settings."""
    if settings.chunk % BLOCK or settings.chunk <= 0:
        raise usage(f"--chunk-size {settings.chunk}: must be a multiple of vllm-gaudi's block of {BLOCK} tokens")
    given = {
        "--storage": settings.storage is not None,
        "--disk-gb": settings.disk_gb is not None,
        "--quotas": settings.quotas,
    }
    useless = [option for option, is_given in given.items() if is_given and option not in mode.takes]
    if useless:
        raise usage(f"{' and '.join(useless)}: has no effect in mode {mode.name}")
    if settings.ranks > 1 and mode.name != "multiprocess":
        refuse_private_keys(release, f"{settings.ranks} ranks")
    ports.check_bind(settings.bind)
    recipe = mode.compose(release, settings)
    ports.refuse_collisions(mode.name, settings, recipe.processes)
    return recipe


def _memory(release: Release, settings: Settings) -> Recipe:
    entries = _engine(release, settings, ())
    return _recipe(release, settings, entries, (serve.engine(release, settings),))


def _disk(release: Release, settings: Settings) -> Recipe:
    # One directory per engine, so that a restart can remove its own chunks and no other engine's.
    folder = f"{stores.directory(_given(settings.storage, '/var/lib/lmcache'))}/engine-{settings.port}"
    more: tuple[Entry, ...] = (
        ("local_disk", f"file://{folder}/", "a disk of this host, for this engine alone"),
        ("max_local_disk_size", DISK_GB if settings.disk_gb is None else settings.disk_gb, "GB for each rank"),
    )
    note = (
        f"A restarted engine finds nothing: LMCache keeps the index of {folder} in memory. serve.sh removes what an "
        f"earlier engine left there, since no limit counts it. To keep KV across restarts, use mode shared, remote or "
        f"multiprocess."
    )
    entries = _engine(release, settings, more)
    process = replace(serve.engine(release, settings), scratch=folder)
    return _recipe(release, settings, entries, (process,), note)


def _remote(release: Release, settings: Settings) -> Recipe:
    store = stores.store(release, settings, _given(settings.storage, LM_SERVER))
    return _over(release, settings, store)


def _shared(release: Release, settings: Settings) -> Recipe:
    store = stores.store(release, settings, stores.directory(_given(settings.storage, "/mnt/lmcache")))
    return _over(release, settings, store, "The directory must be mounted on every host.")


def _mixed(release: Release, settings: Settings) -> Recipe:
    store = stores.store(release, settings, _given(settings.storage, "/mnt/lmcache"))
    entries = _engine(release, settings, store.entries)
    processes = (
        *_servers(store),
        replace(serve.engine(release, settings, store=store, gaudi=False), name="mi300x"),
        replace(serve.engine(release, settings, store=store), name="gaudi"),
    )
    notes = (
        f"{CONFIG} is the same on both hosts, and both must reach the store.",
        *store.notes,
        "Both sides must agree: LMCache release, model name as written, ranks, dtype, chunk size, hash algorithm, "
        "PYTHONHASHSEED. See `gaudi-patch guide disaggregated`.",
        "mi300x.sh runs the `python3` of its host, where LMCache needs no patch.",
    )
    return _recipe(release, settings, entries, processes, *notes)


def _disaggregated(release: Release, settings: Settings) -> Recipe:
    store = stores.store(release, settings, _given(settings.storage, LM_SERVER))
    prefill = replace(settings, port=prefill_port(settings.port))
    decode = replace(settings, port=prefill_port(settings.port) + 100)
    ours = {p: stores.store(release, p, _given(settings.storage, LM_SERVER)) for p in (prefill, decode)}
    entries = _engine(release, settings, store.entries)
    processes = (
        *_servers(store),
        # Not kv_producer: up to 0.3.10.post2 that role fails without NIXL, because there is no disagg_spec.
        replace(serve.engine(release, prefill, store=ours[prefill]), name="prefill"),
        replace(serve.engine(release, decode, store=ours[decode], role="kv_consumer"), name="decode"),
    )
    notes = (
        *_start(store),
        *store.notes,
        f"Send a prompt to prefill (port {prefill.port}) with max_tokens 1, then to decode (port {decode.port}). "
        f"vllm-gaudi has a proxy for this, {PROXY}: `{_proxy(settings, prefill.port, decode.port)}`. It sends the key, "
        f"but requires none from its own clients.",
        "KV goes through the store, not from card to card: LMCache's NIXL path cannot address HPU memory. Decode "
        "recomputes whatever is not in the store yet.",
    )
    return _recipe(release, settings, entries, processes, *notes)


def _proxy(settings: Settings, prefill: int, decode: int) -> str:
    """Return the command of vllm-gaudi's proxy, which reads the key of both engines from OPENAI_API_KEY."""
    bind = settings.bind or ports.LOOPBACK
    reached = ports.in_url(ports.reached_at(bind))
    engines = f"--prefiller-host {reached} --prefiller-port {prefill} --decoder-host {reached} --decoder-port {decode}"
    return (
        f'OPENAI_API_KEY="$VLLM_API_KEY" python3 disagg_proxy_server.py --host {bind} --port {settings.port} {engines}'
    )


MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("memory", "host memory of the engine: fastest, lost with the process", _memory),
        Mode("disk", "also a disk of this host: more room, lost with the process", _disk, _BOTH),
        Mode(
            "remote", "also a store such as Redis, Valkey or S3: outlives the engine, shared by hosts", _remote, _BOTH
        ),
        Mode("shared", "also a directory that hosts share: outlives everything", _shared, _BOTH),
        Mode("mixed", "MI300X and Gaudi hosts over one shared store", _mixed, _BOTH),
        Mode("disaggregated", "one engine prefills, another decodes, through a store", _disaggregated, _BOTH),
        Mode(
            "multiprocess",
            "LMCache in its own process, for all engines of a host, over a store or a disk",
            multiprocess.compose,
            _BOTH | {"--quotas"},
        ),
    )
}


def _over(release: Release, settings: Settings, store: Store, *notes: str) -> Recipe:
    """Return the recipe of one engine over ``store``."""
    entries = _engine(release, settings, store.entries)
    processes = (*_servers(store), serve.engine(release, settings, store=store))
    return _recipe(release, settings, entries, processes, *_start(store), *notes, *store.notes)


def _recipe(
    release: Release, settings: Settings, entries: Sequence[Entry], processes: Sequence[Process], *notes: str
) -> Recipe:
    files = {CONFIG: text.yaml(release, entries), **text.scripts(release, settings.apply, processes)}
    config = {key: value for key, value, _ in entries}
    return Recipe(files, config, notes=(*notes, *serve.notes(settings)), processes=tuple(processes))


def _servers(store: Store) -> tuple[Process, ...]:
    """Return the processes besides the engines: the store's own server, and the cleaner of old chunks."""
    return tuple(process for process in (store.process, store.cleaner) if process is not None)


def _start(store: Store) -> tuple[str, ...]:
    return ("Start server.sh first.",) if store.process else ()


def _engine(release: Release, settings: Settings, more: Sequence[Entry]) -> tuple[Entry, ...]:
    builtin = release.hash_algorithm == "builtin"
    keys = "the same keys in every process, from Python 3.12 on" if builtin else "the same keys in every process"
    return (
        ("chunk_size", settings.chunk, f"tokens, a multiple of the block of {BLOCK}"),
        ("local_cpu", True, ""),
        ("max_local_cpu_size", settings.cpu_gb, "GB of host memory for each rank"),
        ("save_unfull_chunk", False, "whole chunks only; the rest of a prompt is recomputed"),
        ("pre_caching_hash_algorithm", release.hash_algorithm, keys),
        *more,
    )


def _given(storage: str | None, default: str) -> str:
    return default if storage is None else storage
