"""The servers of smoke cases end with the probe that started them, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gaudi_patch.smoke import probes

PROBES = next(iter(probes.__path__))
#: A stand-in for LMCache's server: prints its number, listens, and never ends by itself.
SERVER = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
open(os.environ["NOTE"], "w").write(str(os.getpid()))
time.sleep(600)
"""
LM_SERVER = """
import sys, time
sys.path.append({probes!r})
from pathlib import Path
from _kv import backends as kv_backends
with kv_backends.lm_server(Path({scratch!r})) as url:
    Path({scratch!r}, "url").write_text(url)
    time.sleep(600)
"""
MP_SERVER = """
import os, sys, time
sys.path.append({probes!r})
from pathlib import Path
from _vllm import processes as vllm_processes
port = vllm_processes.free_port()
command = ["-m", "lmcache.v1.server", "127.0.0.1", str(port)]
with vllm_processes.server(command, dict(os.environ), Path({scratch!r}, "server"), port, 60.0):
    Path({scratch!r}, "url").write_text("x")
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("source", [LM_SERVER, MP_SERVER], ids=["lm", "multiprocess"])
def test_a_server_ends_with_its_probe(tmp_path: Path, source: str, number: signal.Signals) -> None:
    package = tmp_path / "packages/lmcache/v1/server"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(SERVER)
    note = tmp_path / "note"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "packages"), "NOTE": str(note)}
    code = source.format(probes=PROBES, scratch=str(tmp_path))
    probe = subprocess.Popen([sys.executable, "-c", code], env=environ, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "url").exists():
            assert time.monotonic() < deadline and probe.poll() is None
            time.sleep(0.02)
        server = int(note.read_text())
        assert alive(server)
        probe.send_signal(number)
        probe.wait(20)
        deadline = time.monotonic() + 5
        while alive(server) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(server)
    finally:
        probe.kill()
        probe.wait()
        if note.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.read_text()), signal.SIGKILL)
