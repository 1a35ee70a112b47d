"""Mode and settings -> the files of a recipe. Pure: nothing is read, nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes import text
from gaudi_patch.recipes.release import Release, refuse_long_keys, refuse_multiprocess, refuse_private_keys
from gaudi_patch.recipes.text import BLOCK, CONFIG, Entry

#: GB of a pool for a model of which nothing is known, and of a disk.
CPU_GB, DISK_GB = 5.0, 50.0
_STORAGE, _DISK = frozenset({"--storage"}), frozenset({"--disk-gb"})
LM_SERVER = "lm://127.0.0.1:65432"
MULTIPROCESS_PORT = 5555
PROXY = "examples/lmcache/disagg_prefill_lmcache_v1/disagg_proxy_server.py"


@dataclass(frozen=True)
class Settings:
    """What differs between deployments; sizes in GB are those of one rank.

    ``disk_gb`` and ``storage`` are None where they were not given: the mode has a value of its own, or no use for one.
    ``max_model_len`` is the longest request in tokens, None for the model's own.
    """

    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    ranks: int = 1
    port: int = 8000
    chunk: int = 256
    cpu_gb: float = CPU_GB
    disk_gb: float | None = None
    storage: str | None = None
    max_model_len: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What `vllm serve` is told of them."""
        ranks = ("--tensor-parallel-size", str(self.ranks))
        longest = () if self.max_model_len is None else ("--max-model-len", str(self.max_model_len))
        return (self.model, "--port", str(self.port), *ranks, "--dtype", "bfloat16", *longest)


@dataclass(frozen=True)
class Recipe:
    """The files; what LMCache has to accept: ``config`` as a file, ``server`` as arguments; what a reader must know."""

    files: Mapping[str, str]
    config: Mapping[str, object] = field(default_factory=dict)
    server: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mode:
    """A way to deploy LMCache; ``takes`` are the options that not every mode has a use for."""

    name: str
    summary: str
    compose: Callable[[Release, Settings], Recipe]
    takes: frozenset[str] = frozenset()


def compose(mode: Mode, release: Release, settings: Settings) -> Recipe:
    """Return the recipe; raises a refusal where the release cannot do it on HPU, and a usage error for bad settings."""
    if settings.chunk % BLOCK or settings.chunk <= 0:
        raise _usage(f"--chunk-size {settings.chunk}: takes a multiple of vllm-gaudi's block of {BLOCK} tokens")
    given = {"--storage": settings.storage, "--disk-gb": settings.disk_gb}
    useless = [option for option, value in given.items() if value is not None and option not in mode.takes]
    if useless:
        raise _usage(f"{' and '.join(useless)}: means nothing in mode {mode.name}")
    if settings.ranks > 1 and mode.name != "multiprocess":
        refuse_private_keys(release, f"{settings.ranks} ranks")
    return mode.compose(release, settings)


def _memory(release: Release, settings: Settings) -> Recipe:
    return _one_host(release, settings, ())


def _disk(release: Release, settings: Settings) -> Recipe:
    folder = _folder(_given(settings.storage, "/var/lib/lmcache"))
    more: tuple[Entry, ...] = (
        ("local_disk", f"file://{folder}/", "a disk of this host"),
        ("max_local_disk_size", DISK_GB if settings.disk_gb is None else settings.disk_gb, "GB for each rank"),
    )
    note = f"A restarted engine finds nothing: LMCache keeps the index of {folder} in memory. To outlive it: shared."
    return _one_host(release, settings, more, note)


def _remote(release: Release, settings: Settings) -> Recipe:
    entries, server = _store(release, settings, _given(settings.storage, LM_SERVER))
    return _one_host(release, settings, entries, *_start(server), server=server)


def _shared(release: Release, settings: Settings) -> Recipe:
    entries, _ = _store(release, settings, _folder(_given(settings.storage, "/mnt/lmcache")))
    return _one_host(
        release, settings, entries, "The directory is mounted on every host. Nothing in it is ever removed."
    )


def _mixed(release: Release, settings: Settings) -> Recipe:
    more, _ = _store(release, settings, _folder(_given(settings.storage, "/mnt/lmcache")))
    entries = _engine(release, settings, more)
    files = {
        CONFIG: text.yaml(release, entries),
        "mi300x.sh": _serve(release, settings, entries, gaudi=False),
        "gaudi.sh": _serve(release, settings, entries),
    }
    notes = (
        f"The directory is mounted on both hosts, and {CONFIG} is the same on both. Nothing in it is ever removed.",
        "Both sides must agree: LMCache release, model name as written, ranks, dtype, chunk size, hash algorithm, "
        "PYTHONHASHSEED. See `gaudi-patch guide disaggregated`.",
    )
    return Recipe(files, _config(entries), notes=notes)


def _disaggregated(release: Release, settings: Settings) -> Recipe:
    more, server = _store(release, settings, _given(settings.storage, LM_SERVER))
    entries = _engine(release, settings, more)
    decode = replace(settings, port=settings.port + 1)
    files = {
        **server,
        CONFIG: text.yaml(release, entries),
        # Not kv_producer: up to 0.3.10 that fails without NIXL, for the want of a disagg_spec.
        "prefill.sh": _serve(release, settings, entries),
        "decode.sh": _serve(release, decode, entries, "kv_consumer"),
    }
    notes = (
        *_start(server),
        f"Send a prompt to prefill (port {settings.port}) with max_tokens 1, then to decode (port {decode.port}); "
        f"vllm-gaudi has a proxy that does: {PROXY}.",
        "KV goes through the store, not from card to card: NIXL cannot address HPU memory. What is not in the store "
        "yet when decode looks is computed again.",
    )
    return Recipe(files, _config(entries), notes=notes)


def _multiprocess(release: Release, settings: Settings) -> Recipe:
    refuse_multiprocess(release)
    port = MULTIPROCESS_PORT
    server = (
        *("--host", "127.0.0.1", "--port", str(port), "--http-port", str(port + 1)),
        *("--chunk-size", str(settings.chunk), "--l1-size-gb", str(settings.cpu_gb)),
        *("--eviction-policy", "LRU", "--supported-transfer-mode", "auto"),
    )
    what = "LMCache's server: host memory that outlives the engines of this host."
    extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": port}
    files = {
        "server.sh": text.script(release, what, (), ("lmcache", "server", *server)),
        "serve.sh": text.serve(release, settings.arguments, "kv_both", connector="LMCacheMPConnector", extra=extra),
    }
    notes = (
        *_start(files),
        "It needs no card, and holds --cpu-gb for all ranks. Run it where no card is visible, such as in a container "
        "of its own: whether it would claim one was not tried on hardware.",
        "It needs httpx, opentelemetry-sdk and opentelemetry-exporter-prometheus beside what the engine needs.",
    )
    return Recipe(files, server=server, notes=notes)


MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("memory", "host memory of the engine: fastest, gone with the process", _memory),
        Mode("disk", "a disk of this host below it: more room, gone with the process", _disk, _STORAGE | _DISK),
        Mode("remote", "LMCache's lm:// server below it: outlives the engine, and hosts share it", _remote, _STORAGE),
        Mode("shared", "a directory that hosts share below it: outlives everything", _shared, _STORAGE),
        Mode("mixed", "MI300X and Gaudi hosts over one shared directory", _mixed, _STORAGE),
        Mode("disaggregated", "one engine prefills, another one decodes, through a store", _disaggregated, _STORAGE),
        Mode("multiprocess", "LMCache in a process of its own, for all engines of a host", _multiprocess),
    )
}


def _one_host(
    release: Release, settings: Settings, more: Sequence[Entry], *notes: str, server: Mapping[str, str] | None = None
) -> Recipe:
    entries = _engine(release, settings, more)
    files = {
        **(server or {}),
        CONFIG: text.yaml(release, entries),
        "serve.sh": _serve(release, settings, entries),
    }
    return Recipe(files, _config(entries), notes=notes)


def _serve(
    release: Release, settings: Settings, entries: Sequence[Entry], role: str = "kv_both", *, gaudi: bool = True
) -> str:
    environment = []
    if str(_config(entries).get("remote_url")).startswith("fs:"):
        # By default all write a chunk through one temporary file: two engines that store the same prompt at once
        # would rename it under each other, and a third could read half of it.
        own = f'{{\\"fs_connector_relative_tmp_dir\\": \\"tmp-$(uname -n)-{settings.port}\\"}}'
        environment = [
            "# Chunks are written in a directory of this engine's own, then moved into place.",
            f'export LMCACHE_EXTRA_CONFIG="{own}"',
        ]
    return text.serve(release, settings.arguments, role, gaudi=gaudi, environment=environment)


def _engine(release: Release, settings: Settings, more: Sequence[Entry]) -> tuple[Entry, ...]:
    builtin = release.hash_algorithm == "builtin"
    keys = "the same keys in every process from Python 3.12 on" if builtin else "the same keys in every process"
    return (
        ("chunk_size", settings.chunk, f"tokens, in whole blocks of {BLOCK}"),
        ("local_cpu", True, ""),
        ("max_local_cpu_size", settings.cpu_gb, "GB of host memory for each rank"),
        ("save_unfull_chunk", False, "whole chunks only; the rest of a prompt is computed again"),
        ("pre_caching_hash_algorithm", release.hash_algorithm, keys),
        *more,
    )


def _store(release: Release, settings: Settings, storage: str) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """Return the settings of a store that processes share, a directory or an lm:// server, and the script of the
    server.
    """
    refuse_private_keys(release, "a cache that processes share")
    serde: Entry = ("remote_serde", "naive", "the other one, CacheGen, runs on CUDA")
    if storage.startswith("/"):
        # The file connector ignores host and port, but LMCache's parser wants them.
        return (("remote_url", f"fs://localhost:0{_folder(storage)}/", ""), serde), {}
    host, port = _lm_address(storage)
    refuse_long_keys(release, settings.model, settings.ranks)
    command = ("python3", "-m", "lmcache.v1.server", host, str(port), "cpu")
    what = f"LMCache's own server, on {host}. It keeps everything in memory, and evicts nothing."
    server = {"server.sh": text.script(release, what, (), command)}
    return (("remote_url", f"lm://{host}:{port}", ""), serde), server


def _start(server: Mapping[str, str]) -> tuple[str, ...]:
    return ("Start server.sh first.",) if server else ()


def _config(entries: Sequence[Entry]) -> dict[str, object]:
    return {key: value for key, value, _ in entries}


def _given(storage: str | None, default: str) -> str:
    return default if storage is None else storage


def _folder(given: str) -> str:
    if not given.startswith("/") or any(character in given for character in " ,?#%"):
        raise _usage(f"--storage {given!r}: takes an absolute directory without spaces, commas or any of ? # %")
    return given.rstrip("/")


def _lm_address(given: str) -> tuple[str, int]:
    try:
        parts = urlsplit(given)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    # A host with colons is an IPv6 address, which LMCache's server cannot bind.
    if not given.startswith("lm://") or not host or ":" in host or not port or parts.path.strip("/"):
        raise _usage(f"--storage {given!r}: takes lm://HOST:PORT, or an absolute directory")
    return host, port


def _usage(message: str) -> GaudiPatchError:
    return GaudiPatchError(Exit.USAGE, "usage", message, "see `gaudi-patch recipe --help`")
