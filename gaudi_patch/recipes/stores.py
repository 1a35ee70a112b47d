"""Stores for chunks that outlive an engine: what --storage names, in the form the release expects. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, urlsplit

from gaudi_patch.errors import refused
from gaudi_patch.recipes.process import HOST, Process, Variable, secret
from gaudi_patch.recipes.release import Release, refuse_long_keys, refuse_private_keys
from gaudi_patch.recipes.settings import DISK_GB, EVERYWHERE, Settings, usage
from gaudi_patch.recipes.text import Entry
from gaudi_patch.sizing.plan import GIB

LM_SERVER = "lm://127.0.0.1:65432"
#: Set by the user who starts an engine; no file contains it.
PASSWORD = "LMCACHE_RESP_PASSWORD"  # noqa: S105 - a name, and LMCache's own
#: Default port of Redis and Valkey.
REDIS_PORT = 6379
#: Default port of Mooncake's master, and the bytes that its client has besides a prompt.
MOONCAKE_PORT, MOONCAKE_SPARE = 50051, 64 * 1024**2
#: Seconds. After its default of 1 s, LMCache would free chunks that Mooncake still reads, and store others' KV.
MOONCAKE_STORES = 3600
#: Prompts of the longest request that a shared directory keeps without --disk-gb.
KEPT_PROMPTS = 20
_TAKES = (
    "an absolute directory, lm://HOST:PORT, redis[s]://[USER@]HOST[:PORT][/DATABASE], valkey[s]://..., "
    "mooncake://HOST[:PORT], or s3://BUCKET.s3.REGION.amazonaws.com or s3://BUCKET.HOST[:PORT]?region=REGION[&tls=off]"
)
#: Schemes of servers that speak Redis's protocol, and the schemes for LMCache's Redis client.
_REDIS = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
REDIS_EVICTS = (
    "Redis and Valkey evict only if configured to: maxmemory BYTES and maxmemory-policy allkeys-lru. Without maxmemory "
    "they grow until they are killed; with noeviction they refuse new chunks once they are full."
)
REDIS_IS_PLAIN = "redis:// and valkey:// are not encrypted: anyone on that network can read prompts' KV."
S3_CREDENTIALS = (
    "Credentials are those of the AWS SDK's default chain: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
    "environment, or the host's role; no file of the recipe contains them."
)
MOONCAKE_NOTES = (
    "Mooncake keeps chunks only in its clients' memory. Besides `mooncake_master`, run a client that outlives the "
    "engines: `mooncake_client --global_segment_size='64 GB' --host=ITS_ADDRESS --master_server_address=HOST:50051 "
    "--metadata_server=P2PHANDSHAKE`. When it exits, its chunks are lost. The master evicts once that memory is nearly "
    "full, and requires no password.",
    "Each engine needs the wheel mooncake-transfer-engine-non-cuda and, from the distribution, libibverbs (Debian: "
    "libibverbs1, ibverbs-providers, librdmacm1), even over TCP; the wheel without non-cuda also needs CUDA's "
    "libraries. RDMA has not been tested.",
)
_WHY = "with the password, which no file contains"
#: At INFO, LMCache logs its configuration and the URL of its Redis, with the password.
_QUIET = Variable("LMCACHE_LOG_LEVEL", "WARNING", "below it LMCache logs the URL with its password")
_AWS = re.compile(r"\.s3(?:express-[\w-]+)?[.-]([a-z0-9-]+)\.amazonaws\.com$")


@dataclass(frozen=True)
class Store:
    """A store: ``entries`` for LMCache's file, ``variables`` and ``secrets`` for an engine's environment.

    ``process`` is its server, if the recipe starts one; ``cleaner`` removes old chunks. ``notes`` say what happens to
    stored chunks.
    """

    entries: tuple[Entry, ...]
    variables: tuple[Variable, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    process: Process | None = None
    cleaner: Process | None = None
    notes: tuple[str, ...] = ()


def store(release: Release, settings: Settings, storage: str) -> Store:
    """Return the store that ``storage`` names; raise if this release cannot use it, or if it is misspelt."""
    refuse_private_keys(release, "a cache that processes share")
    if storage.startswith("/"):
        return _directory(settings, storage)
    parts = split(storage)
    if parts.scheme == "lm":
        return _lm(release, settings, storage, parts)
    if parts.scheme in _REDIS:
        return _redis(release, settings, parts)
    if parts.scheme == "s3":
        return _s3(release, settings, parts)
    if parts.scheme == "mooncake":
        return _mooncake(release, settings, parts)
    raise usage(f"--storage {storage!r}: must be {_TAKES}")


def split(storage: str) -> SplitResult:
    """Return the parts of a URL; raise a usage error if it is not a URL, or contains a password."""
    try:
        parts = urlsplit(storage)
        host, password = parts.hostname, parts.password
        parts.port  # noqa: B018 - it raises where it is no number
    except ValueError:
        host, password = None, None
    if not host or any(character in storage for character in " ,@$`\\\"'" if character != "@"):
        raise usage(f"--storage {storage!r}: must be {_TAKES}")
    if password is not None:
        raise usage(
            "--storage has a password: it would be visible in files and in the process list",
            f"leave it out but keep USER@: the scripts read it from {PASSWORD}",
        )
    if host in (EVERYWHERE, "::"):
        raise usage(
            f"--storage: {host} is an address to listen on; give the address that engines connect to", "see --bind"
        )
    return parts


def directory(given: str) -> str:
    """Return ``given`` without a trailing slash; raise a usage error if LMCache would not read it as written."""
    if not given.startswith("/") or any(character in given for character in " ,?#%@$`\\\"'"):
        raise usage(f"--storage {given!r}: must be an absolute directory without spaces, commas or any of ? # % @ $")
    return given.rstrip("/")


def kept_gb(settings: Settings) -> float:
    """Return how many GB of chunks a store keeps for all ranks: --disk-gb per rank, else by the model."""
    if settings.disk_gb is None and settings.sizing is not None:
        return round(settings.sizing.disk(KEPT_PROMPTS) / GIB, 1) or 0.1
    return round((DISK_GB if settings.disk_gb is None else settings.disk_gb) * settings.ranks, 1)


def s3_host(parts: SplitResult) -> tuple[str, str, bool]:
    """Return the host of a bucket in the form for LMCache, its region, and whether it uses TLS."""
    options = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(set(options) - {"region", "tls"})
    named = _AWS.search(parts.hostname or "")
    region = options.get("region", [named[1] if named else ""])[-1]
    tls = options.get("tls", ["on"])[-1]
    if unknown or parts.path.strip("/") or parts.username or tls not in ("on", "off") or not region:
        why = "the region is missing: add ?region=REGION" if not region else f"must be {_TAKES}"
        raise usage(f"--storage {parts.geturl()!r}: {why}")
    return parts.netloc, region, tls == "on"


def _directory(settings: Settings, given: str) -> Store:
    folder = directory(given)
    # By default, all engines write a chunk through the same temporary file. Two that store the same prompt at once
    # would rename it under each other, and a third could read half of it.
    own = _extra(
        {"fs_connector_relative_tmp_dir": f"tmp-{HOST}-{settings.port}"}, "chunks are written there, then moved"
    )
    keep = kept_gb(settings)
    cleaner = Process(
        name="clean",
        what=f"Removes the oldest chunks until {keep:g} GB are left; LMCache removes none.",
        python=settings.python,
        arguments=("@HERE@/clean.py", folder, "--keep-gb", f"{keep:g}"),
    )
    # The file connector ignores host and port, but LMCache's parser requires them.
    url: Entry = ("remote_url", f"fs://localhost:0{folder}/", "")
    note = f"LMCache never removes a file from {folder}: run clean.sh from a timer on one host. It keeps {keep:g} GB."
    return Store((url, *_common(settings)), (own,), cleaner=cleaner, notes=(note,))


def _lm(release: Release, settings: Settings, given: str, parts: SplitResult) -> Store:
    # A host with colons is an IPv6 address, which LMCache's server cannot bind.
    if not parts.port or ":" in (parts.hostname or "") or parts.path.strip("/") or parts.username or parts.query:
        raise usage(f"--storage {given!r}: must be lm://HOST:PORT")
    if ":" in (settings.bind or ""):
        raise usage(f"--bind {settings.bind}: LMCache's own server accepts no IPv6 address")
    refuse_long_keys(release, settings.model, settings.ranks)
    bind = settings.bind or str(parts.hostname)
    process = Process(
        name="server",
        what=f"LMCache's own server, on {bind}. It keeps everything in memory, evicts nothing, and requires no "
        f"password.",
        python=settings.python,
        arguments=("-m", "lmcache.v1.server", bind, str(parts.port), "cpu"),
        ports={"lm": parts.port},
        bind=bind,
    )
    note = (
        "lm:// is LMCache's own server: one process on one node, whose memory grows until it is killed, without a "
        "password. For more than a trial, use --storage redis://HOST:PORT or s3://..."
    )
    return Store(
        (("remote_url", f"lm://{parts.hostname}:{parts.port}", ""), *_common(settings)), process=process, notes=(note,)
    )


def _redis(release: Release, settings: Settings, parts: SplitResult) -> Store:
    database = parts.path.strip("/")
    if parts.query or not (database or "0").isdigit():
        raise usage(f"--storage {parts.geturl()!r}: must be redis[s]://[USER@]HOST[:PORT][/DATABASE]")
    user = f"{parts.username}:{secret(PASSWORD)}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    url = f"{_REDIS[parts.scheme]}://{user}{host}:{parts.port or REDIS_PORT}/{database or 0}"
    secrets = {PASSWORD: f"the password of {parts.username} at {parts.hostname}"} if user else {}
    notes = (REDIS_EVICTS, *((REDIS_IS_PLAIN,) if _REDIS[parts.scheme] == "redis" else ()))
    common = _common(settings)
    if release.has_redis_plugin:
        common = (("remote_storage_plugins", ["redis"], "remote_url is deprecated in this release"), *common)
        extra = {"remote_storage_plugin.redis.redis_url": url}
        if not user:
            return Store((*common, ("extra_config", extra, "")), notes=notes)
        variable = _extra(extra, _WHY)
    elif not user:
        return Store((("remote_url", url, ""), *common), notes=notes)
    else:
        variable = Variable("LMCACHE_REMOTE_URL", url, _WHY)
    return Store(common, (variable, _QUIET), secrets, notes=notes)


def _s3(release: Release, settings: Settings, parts: SplitResult) -> Store:
    if release.before("0.3.10.post1"):
        raise refused(
            "store-refused",
            f"LMCache {release.version} has no S3 store that could be tested: its connector does not accept plain HTTP",
            "use LMCache 0.3.10.post1 or later, or another store",
        )
    host, region, tls = s3_host(parts)
    extra: dict[str, object] = {"s3_region": region}
    if not tls:
        extra |= {"disable_tls": True, "s3_prefer_http2": False}
    notes = (
        S3_CREDENTIALS,
        "LMCache never deletes an object: set a lifecycle rule that expires them. An engine remembers what it saw in "
        "the bucket, and recomputes a chunk that has expired since.",
        "After three failed connections in a row, LMCache stops using the bucket until the engine is restarted.",
    )
    entries = (("remote_url", f"s3://{host}", ""), *_common(settings), ("extra_config", extra, ""))
    return Store(entries, notes=notes)


def _mooncake(release: Release, settings: Settings, parts: SplitResult) -> Store:
    if release.before("0.4.6"):
        raise refused(
            "store-refused",
            f"LMCache {release.version} passes Mooncake no settings by name: its connector was written for an older "
            f"Mooncake",
            "use LMCache 0.4.6 or later, or another store",
        )
    if parts.query or parts.path.strip("/") or parts.username or ":" in (parts.hostname or ""):
        raise usage(f"--storage {parts.geturl()!r}: must be mooncake://HOST[:PORT], Mooncake's master")
    buffer = mooncake_buffer(settings)
    # LMCache passes on what begins with mooncake_; Mooncake does not read LMCache's own name for the master's address.
    # An engine gives Mooncake no memory, because chunks stored there would vanish with the engine.
    extra = {
        "mooncake_master_server_addr": f"{parts.hostname}:{parts.port or MOONCAKE_PORT}",
        "mooncake_metadata_server": "P2PHANDSHAKE",
        "mooncake_protocol": "tcp",
        "mooncake_global_segment_size": 0,
        "mooncake_local_buffer_size": buffer,
        "transfer_timeout": MOONCAKE_STORES,
    }
    own = _extra({**extra, "mooncake_local_hostname": HOST}, "how other hosts reach this one; see notes")
    entries = (
        ("remote_storage_plugins", ["mooncakestore"], "remote_url is deprecated in this release"),
        *_common(settings),
    )
    room = f"Each rank uses {buffer / GIB:.1f} GB more than its pool: Mooncake's client has room for one prompt."
    return Store(entries, (own,), notes=(*MOONCAKE_NOTES, room))


def mooncake_buffer(settings: Settings) -> int:
    """Return the bytes that Mooncake's client needs in each rank; 0 with another store.

    All chunks of a prompt are read into its buffer at once, so the buffer holds a prompt and a quarter more. For an
    unknown model, it holds as much as the pool.
    """
    if not (settings.storage or "").startswith("mooncake:"):
        return 0
    prompt = settings.cpu_gb * GIB if settings.sizing is None else settings.sizing.prompt * 1.25
    return int(prompt) + MOONCAKE_SPARE


def _extra(values: Mapping[str, object], why: str) -> Variable:
    return Variable("LMCACHE_EXTRA_CONFIG", json.dumps(values), why)


def _common(settings: Settings) -> tuple[Entry, ...]:
    return (
        ("remote_serde", "naive", "the other serializer, CacheGen, needs CUDA"),
        (
            "blocking_timeout_secs",
            settings.timeout,
            "seconds until a load is given up: one prompt at 1 GB/s, at least 10",
        ),
    )
