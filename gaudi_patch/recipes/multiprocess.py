"""Multiprocess mode: LMCache's server, with memory that its engines map and an optional store below it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from gaudi_patch.recipes import serve, stores
from gaudi_patch.recipes.ports import LOOPBACK, reached_at
from gaudi_patch.recipes.process import Process, Variable
from gaudi_patch.recipes.release import Release, refuse_multiprocess
from gaudi_patch.recipes.settings import Recipe, Settings, usage
from gaudi_patch.recipes.text import scripts

#: Ports of ZeroMQ, and of the HTTP API, which also has the metrics (lmcache/v1/multiprocess/http_server.py).
PORT, HTTP_PORT = 5555, 5556
_SHARED = f"lmcache-{PORT}"
#: LMCache's name for its memory below /dev/shm (lmcache/v1/multiprocess/engine_context.py).
SEGMENT = f"lmcache_l1_pool_{_SHARED}"
#: `lmcache` as a module, so that a chosen interpreter runs it (lmcache/cli/main.py).
LMCACHE = ("-m", "lmcache.cli.main")


@dataclass(frozen=True)
class _Below:
    """The store below the server's memory: its --l2-adapter, its part of the environment, and notes for readers.

    ``trims`` is a directory and the GB of chunks that a start keeps in it (see Process).
    """

    adapter: dict[str, object] | None = None
    trims: tuple[str, float] | None = None
    variables: tuple[Variable, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compose(release: Release, settings: Settings) -> Recipe:
    """Return the recipe; raise a refusal if the release has no multiprocess mode that works on HPU."""
    refuse_multiprocess(release)
    bind = settings.bind or LOOPBACK
    if ":" in bind:
        raise usage(f"--bind {bind}: LMCache's own server accepts no IPv6 address")
    reached = reached_at(bind)
    policy = "IsolatedLRU" if settings.quotas else "LRU"
    below = _below(settings, policy)
    arguments = (
        *("--host", bind, "--port", str(PORT), "--http-host", bind, "--http-port", str(HTTP_PORT)),
        *("--chunk-size", str(settings.chunk)),
        # Engines map the memory by its name, so it must exist from the start and cannot grow with use.
        *("--l1-size-gb", str(settings.cpu_gb), "--no-l1-use-lazy", "--shm-name", _SHARED),
        *("--eviction-policy", policy, "--supported-transfer-mode", "auto"),
        *(("--l2-adapter", json.dumps(below.adapter)) if below.adapter else ()),
    )
    server = Process(
        name="server",
        what="LMCache's server: host memory that outlives the engines of this host, which map it.",
        python=settings.python,
        arguments=(*LMCACHE, "server", *arguments),
        variables=(
            Variable("LMCACHE_TRACK_USAGE", "false", "else LMCache reports its use to stats.lmcache.ai"),
            *below.variables,
        ),
        secrets=below.secrets,
        ports={"mp": PORT, "http": HTTP_PORT},
        bind=bind,
        health="/healthcheck",
        trims=below.trims,
        segment=SEGMENT,
    )
    extra = {"lmcache.mp.host": f"tcp://{reached}", "lmcache.mp.port": PORT}
    engine = serve.engine(release, settings, connector="LMCacheMPConnector", extra=extra)
    processes = (server, engine)
    notes = (
        "Start server.sh first.",
        "It needs no card, and holds --cpu-gb for all ranks. Run it where no card is visible, such as in its own "
        "container: whether it would claim one has not been tested on hardware.",
        f"Engines map its memory, /dev/shm/{SEGMENT}: /dev/shm must hold {settings.cpu_gb:g} GB, "
        "and containers share it with --ipc=host. If it is too small, KV goes through sockets, slowly.",
        "It needs httpx, opentelemetry-sdk and opentelemetry-exporter-prometheus in addition to what the engine needs.",
        f"Ask it: `{settings.python} -m lmcache.cli.main ping kvcache --url http://{reached}:{HTTP_PORT}`, and "
        "`describe kvcache` in its place. Its HTTP API needs no key, can clear the cache, and before 0.5.6 runs "
        "scripts: never expose it outside the host.",
        *(_quotas(settings, reached) if settings.quotas else ()),
        *below.notes,
        *serve.notes(settings),
    )
    files = scripts(release, settings.apply, processes)
    return Recipe(files, server=arguments, notes=notes, processes=processes)


def _quotas(settings: Settings, reached: str) -> tuple[str, ...]:
    set_ = f"{settings.python} -m lmcache.cli.main quota set SALT --limit-gb GB --url http://{reached}:{HTTP_PORT}"
    return (
        f"--quotas: each cache_salt has a budget, and a salt without one is emptied within seconds, including _default "
        f"(no salt). Set them after each start: `{set_}`.",
    )


def _below(settings: Settings, policy: str) -> _Below:
    """Return the store below the server's memory; an empty one without --storage."""
    storage = settings.storage
    if storage is None:
        if settings.disk_gb is not None:
            raise usage("--disk-gb: has no effect in mode multiprocess without --storage")
        return _Below()
    keep = stores.kept_gb(settings)
    evicts = {"max_capacity_gb": keep, "eviction": {"eviction_policy": policy}}
    if storage.startswith("/"):
        folder = stores.directory(storage)
        adapter: dict[str, object] = {"type": "fs_native", "base_path": folder, "relative_tmp_dir": "tmp", **evicts}
        note = (
            f"{folder} must belong to this server only. It keeps {keep:g} GB of what it has written since its start, "
            f"and removes the oldest first; at a start, {keep:g} GB of older chunks are left. The disk needs "
            f"{2 * keep:g} GB."
        )
        return _Below(adapter, (folder, keep), notes=(note,))
    parts = stores.split(storage)
    if parts.scheme in ("redis", "valkey"):
        if parts.query or parts.path.strip("/") not in ("", "0"):
            raise usage(f"--storage {storage!r}: mode multiprocess accepts redis://[USER@]HOST[:PORT], database 0")
        adapter = {"type": "resp", "host": parts.hostname, "port": parts.port or stores.REDIS_PORT}
        user = (Variable("LMCACHE_RESP_USERNAME", parts.username),) if parts.username else ()
        what = {stores.PASSWORD: f"the password of {parts.username} at {parts.hostname}"} if user else {}
        return _Below(adapter, None, user, what, notes=(stores.REDIS_EVICTS, stores.REDIS_IS_PLAIN))
    if parts.scheme == "s3":
        host, region, tls = stores.s3_host(parts)
        adapter = {"type": "s3", "s3_endpoint": host, "s3_region": region, **evicts}
        if not tls:
            adapter |= {"disable_tls": True, "s3_prefer_http2": False}
        note = (
            f"It keeps {keep:g} GB in the bucket of what it has written since its start. Nothing deletes what earlier "
            "servers left there: set a lifecycle rule that expires objects. It needs awscrt and boto3."
        )
        return _Below(adapter, notes=(note, stores.S3_CREDENTIALS))
    raise usage(
        f"--storage {storage!r}: mode multiprocess accepts an absolute directory, redis://HOST:PORT or s3://..., "
        "without TLS for Redis: LMCache's native client has none"
    )
