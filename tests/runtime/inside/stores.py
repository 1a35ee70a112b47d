"""An LMCache engine over a store that a test damages, on the emulated HPU; the ``lm://`` server runs in a process."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import BLOCK, BLOCKS, CHUNK, metadata
from lmcache.gaudi import compat
from lmcache.gaudi.connector import create_connector
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from support import make_caches

# Seconds: a hanging call lasts longer than anything else takes, even on a busy machine.
HANGS, PATIENCE = 600.0, 100.0
TOKENS = 4 * CHUNK


class Store:
    """An engine with stored chunks, and the ways a test can damage the store.

    ``place`` is the store's directory, which may exist; by default a new one below ``folder``.
    """

    def __init__(
        self, folder: Path, kind: str, *, own_server: bool = False, place: Path | None = None, **options: Any
    ) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        self.folder = place or folder / f"{kind}-{random.random()}"
        self.folder.mkdir(parents=True, exist_ok=place is not None)
        settings: dict[str, Any] = {"chunk_size": CHUNK, "max_local_cpu_size": 0.1, "save_unfull_chunk": False}
        if kind == "disk":
            settings |= {"local_cpu": False, "local_disk": f"{self.folder}/", "max_local_disk_size": 0.1}
        elif kind == "fs":
            settings |= {"local_cpu": False, "remote_url": f"fs://localhost:0{self.folder}/", "remote_serde": "naive"}
        elif kind == "lm":
            server, url = lm_server() if own_server else shared_server()
            self.server = server if own_server else None
            settings |= {"local_cpu": False, "remote_url": url, "remote_serde": "naive"}
        config = LMCacheEngineConfig.from_defaults(**(settings | options))
        self.caches = make_caches(
            "blocks", torch.bfloat16, blocks=BLOCKS, block_size=BLOCK, rows=[(2, 8)] * 3, rng=np.random.default_rng(0)
        )
        about = metadata(self.caches)
        connector = create_connector(config, about, "VLLM")
        self.name = f"engine-{random.random()}"
        self.engine = LMCacheEngineBuilder.get_or_create(
            self.name, config, about, connector, lambda t, _: t, lambda o, _: o
        )
        connector.initialize_kvcaches_ptr(kvcaches=self.caches.given)
        self.engine.post_init(kvcaches=self.caches.given)
        self.prompt = [random.randrange(50000) for _ in range(TOKENS)]
        self.slots = torch.arange(TOKENS)
        self.engine.store(self.prompt, kvcaches=self.caches.given, slot_mapping=self.slots)
        deadline = time.monotonic() + 30
        while self.engine.lookup(self.prompt) != TOKENS and time.monotonic() < deadline:
            time.sleep(0.05)
        while kind in ("disk", "fs") and len(self.files()) < TOKENS // CHUNK and time.monotonic() < deadline:
            time.sleep(0.05)  # a lookup finds a chunk before its file is written
        backend = {"disk": "LocalDiskBackend", "memory": "LocalCPUBackend"}.get(kind, "RemoteBackend")
        self.backend = self.engine.storage_manager.storage_backends[backend]

    def files(self) -> list[Path]:
        """Return the chunks' files, in no particular order."""
        return [path for path in self.folder.rglob("*") if path.suffix not in (".damaged", ".tmp") and path.is_file()]

    def lookup(self, request: str = "r") -> int:
        """Return the number of tokens promised to the scheduler."""
        return int(self.engine.lookup(self.prompt, lookup_id=request, pin=True))

    def load(self, promised: int, request: str = "r") -> int:
        """Load the promised tokens, and return how many arrived."""
        mask = torch.ones(promised, dtype=torch.bool)
        found = self.engine.retrieve(
            self.prompt[:promised], mask, kvcaches=self.caches.given, slot_mapping=self.slots[:promised], req_id=request
        )
        return int(found.sum())

    def serves(self) -> None:
        """Check that a promise is kept, whatever was done before."""
        promised = self.lookup("again")
        assert self.load(promised, "again") == promised

    def die(self) -> None:
        """End the store of the chunks: kill the server's process, or remove the directory of the files."""
        if self.server is None:
            shutil.rmtree(self.folder)
        else:
            self.server.kill()
            self.server.wait()

    def close(self) -> None:
        if self.server is not None:  # before the engine, which waits for a server that hangs
            self.server.kill()
            self.server.wait()
        # Some releases wait 10 s for one of their threads; the next case need not.
        threading.Thread(target=LMCacheEngineBuilder.destroy, args=(self.name,), daemon=True).start()


def lm_server() -> tuple[subprocess.Popen[bytes], str]:
    """Start LMCache's lm:// server in a process that ends with this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dies_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # noqa: E731 -- PR_SET_PDEATHSIG
    command = [sys.executable, "-m", "lmcache.v1.server", "127.0.0.1", str(port), "cpu"]
    server = subprocess.Popen(command, stdout=sys.stderr, preexec_fn=dies_with_parent)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return server, f"lm://127.0.0.1:{port}"
        time.sleep(0.05)
    raise RuntimeError("LMCache's server of lm:// does not start")


@functools.cache
def shared_server() -> tuple[subprocess.Popen[bytes], str]:
    """Return the server shared by cases that do not damage it."""
    return lm_server()


def one_or_list(engine: Any, request: str) -> Any:
    """Return a request as this release's ``lookup_unpin`` takes it."""
    return [request] if compat.unpins_lists(engine) else request
