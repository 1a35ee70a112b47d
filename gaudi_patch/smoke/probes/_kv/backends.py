"""Storage backends for the engine: their configuration, and the lm:// server in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _children
else:  # run by path, beside this file
    import _children

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Backend:
    """A combination of backends.

    settings: LMCache's configuration.
    evicts: the pool is small, and evicted chunks are lost; keeps: evicted chunks remain in another backend.
    """

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    evicts: bool = False
    keeps: bool = False


@contextlib.contextmanager
def backends(scratch: Path, roomy: float, small: float) -> Iterator[list[Backend]]:
    """Yield the backends to check, with the server running. roomy, small: sizes of the CPU pool in GB."""
    with lm_server(scratch) as url:
        yield [
            Backend("CPU", {"local_cpu": True, "max_local_cpu_size": small}, evicts=True),
            Backend(
                "disk",
                {"local_cpu": False, "max_local_cpu_size": roomy, **_disk(scratch / "disk")},
            ),
            Backend(
                "CPU over disk",
                {"local_cpu": True, "max_local_cpu_size": small, **_disk(scratch / "below")},
                evicts=True,
                keeps=True,
            ),
            Backend(
                "lm://",
                {
                    "local_cpu": False,
                    "max_local_cpu_size": roomy,
                    "remote_url": url,
                    "remote_serde": "naive",
                },
            ),
        ]


def _disk(folder: Path) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    return {"local_disk": f"file://{folder}/", "max_local_disk_size": 1.0}


@contextlib.contextmanager
def lm_server(scratch: Path) -> Iterator[str]:
    """Run LMCache's own server on the loopback interface; yield its URL, and stop it at the end.

    Raises RuntimeError if it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = scratch / "lm-server.log"
    with log.open("wb") as stream:
        process = _children.start(
            [sys.executable, "-m", "lmcache.v1.server", "127.0.0.1", str(port), "cpu"], output=stream
        )
    try:
        _wait_for(port, process, log)
        yield f"lm://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(f"LMCache's lm:// server does not start: {lines[-1] if lines else 'it printed nothing'}")
