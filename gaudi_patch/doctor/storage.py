"""Checks of where chunks are stored: the local disk and the remote store."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning
from gaudi_patch.recipes.process import DISK_CHUNKS
from gaudi_patch.sizing.plan import GIB

#: Bytes of KV per token: Llama 3.1 8B in bf16, 32 layers of 8 heads of 128, keys and values.
_TOKEN = 2 * 32 * 8 * 128 * 2

#: Schemes whose URL names the servers by host and port.
_SERVERS = (
    "lm",
    "redis",
    "rediss",
    "resp",
    "valkey",
    "redis-sentinel",
    "redis-cluster",
    "infinistore",
    "mooncakestore",
)


def _disks(case: Case) -> list[str]:
    """Return the directories of the disk backend, separated by commas, with or without file://."""
    value = case.settings.values.get("local_disk")
    parts = [part.strip().removeprefix("file://") for part in str(value or "").split(",")]
    return [part for part in parts if part]


@check(
    "storage.local-disk",
    "local_disk",
    why="LMCache creates the directory and fills it up to max_local_disk_size GB; if it cannot, chunks are lost",
    source=sources.lmcache("v1/storage_backend/local_disk_backend.py"),
    needs=("running", "settings"),
)
def local_disk(case: Case) -> Answer:
    folders = _disks(case)
    if not folders:
        return ok("not used")
    size = case.settings.values.get("max_local_disk_size") or 0
    wanted = float(size) * GIB * (case.ranks or 1) / len(folders)
    notes = []
    for folder in folders:
        existing = case.host.existing(folder)
        if problem := case.host.unwritable(existing):
            what = f"{existing} cannot be written to: {problem}"
            return failure(what, f"chown it to the user that serves, or mount {folder} writable")
        try:
            free = case.host.free_space(existing)
        except OSError as error:
            return failure(f"{existing}: {error.strerror or error}", "check the mount")
        if free < wanted:
            return warning(
                f"{folder}: {free / GIB:.1f} GiB free, up to {wanted / GIB:.1f} GiB wanted",
                "lower max_local_disk_size (it counts for each rank), or free some space",
            )
        notes.append(f"{folder}: {free / GIB:.0f} GiB free{'' if existing == folder else ', to be created'}")
    return ok("; ".join(notes))


@check(
    "storage.leftovers",
    "chunks of earlier processes in local_disk",
    why="LMCache's disk backend neither finds nor counts what an earlier process stored: each start adds up to "
    "max_local_disk_size GB to it",
    source=sources.lmcache("v1/storage_backend/local_disk_backend.py"),
    needs=("running", "settings"),
)
def leftovers(case: Case) -> Answer:
    folders = _disks(case)
    if not folders:
        return ok("not used")
    sizes = [size for folder in folders for size in case.host.sizes(folder, DISK_CHUNKS)]
    if not sizes:
        return ok("none")
    where = " ".join(shlex.quote(folder) for folder in folders)
    return warning(
        f"{len(sizes):,} chunks, {sum(sizes) / GIB:.1f} GiB in {', '.join(folders)}; unless an engine that runs now "
        "has stored them, no engine finds them",
        f"give each engine a directory of its own, and empty it before a start: find {where} -maxdepth 1 -type f "
        f"-name {shlex.quote(DISK_CHUNKS)} -delete",
    )


@check(
    "storage.bandwidth",
    "bandwidth of local_disk, measured",
    why="a hit that loads more slowly than the card computes is useless",
    source="a file of 64 MiB, written through to the disk and read back, 3 s at most, removed",
    needs=("running", "settings"),
)
def bandwidth(case: Case) -> Answer:
    folders = _disks(case)
    if not folders:
        return ok("not used")
    notes = []
    for folder in folders:
        if case.host.existing(folder) != (folder.rstrip("/") or "/"):
            return unknown(f"{folder} does not exist yet: nothing was measured", f"mkdir -p {shlex.quote(folder)}")
        try:
            measured = case.host.bandwidth(folder)
        except OSError as error:
            return unknown(f"{folder}: {error.strerror or error}", "see storage.local-disk")
        rate = f"writes {measured.write / 1e9:.2f} GB/s, reads {measured.read / 1e9:.2f} GB/s"
        notes.append(f"{folder}: {rate}, or {measured.read / _TOKEN:,.0f} tokens/s of an 8B model")
    return ok("; ".join(notes))


@check(
    "storage.remote",
    "remote_url",
    why="LMCache starts and runs without its remote store: every request is a miss",
    source=sources.lmcache("v1/storage_backend/connector/__init__.py") + " (parse_remote_url)",
    needs=("running", "settings"),
)
def remote(case: Case) -> Answer:
    url = case.settings.values.get("remote_url")
    if not url:
        return ok("not used")
    scheme, _, rest = str(url).partition("://")
    if scheme == "fs":
        return _shared_folder(case, "/" + rest.partition("/")[2])
    if scheme not in _SERVERS:
        return unknown(f"{scheme}:// names no host and port to try")
    servers = rest.rpartition("@")[2].split(",")  # a user and a password are not shown
    problems = []
    for server in servers:
        try:
            split = urlsplit(f"{scheme}://{server.removeprefix(f'{scheme}://')}")
            name, port = split.hostname, split.port
        except ValueError:
            name = port = None
        if name is None or port is None:
            return failure(f"{server!r} is not a host and port", f"remote_url: {scheme}://HOST:PORT")
        if problem := case.host.connect(name, port):
            problems.append(f"{name}:{port}: {problem}")
    if len(problems) == len(servers):
        return failure("; ".join(problems), "start the server; check the address, the firewall and the network")
    if problems:
        return warning("; ".join(problems), "start the servers that are missing")
    return ok(f"{len(servers)} server(s) accept connections")


def _shared_folder(case: Case, folder: str) -> Answer:
    if case.host.existing(folder) != (folder.rstrip("/") or "/"):
        return failure(f"{folder} does not exist", "mount the share, on every host that uses it")
    if problem := case.host.unwritable(folder):
        return failure(f"{folder} cannot be written to: {problem}", "chown it to the user that serves")
    return ok(f"{folder} exists and is writable")


CHECKS = (local_disk, leftovers, bandwidth, remote)
