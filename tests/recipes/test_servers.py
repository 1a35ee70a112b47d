"""The servers that recipes start: they come up from their scripts, and listen where the engines expect them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.test_vllm_pairs import WANTED
from tests.support import vllm_pairs
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment, EnvironmentUnavailableError, clean_environment
from tests.support.vllm_pairs import Pair

pytestmark = [pytest.mark.wheels, pytest.mark.torch]

Overlay = Callable[[str], Environment]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(
    script: Path, environment: Environment, *more: str, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a script in its own process group, with the environment's programs first on PATH; stop it at the end."""
    given = {"PATH": f"{environment.prefix / 'bin'}:/usr/bin:/bin", **(variables or {})}
    with (script.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", str(script), *more],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1", "LMCACHE_TRACK_USAGE": "false"} | given,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.parametrize("version", ["0.4.2", "0.5.6"])
def test_the_lm_server_comes_up(version: str, lmcache_copy: Overlay, tmp_path: Path) -> None:
    environment, port = lmcache_copy(version), free_port()
    assert gaudi_patch("apply", "--no-smoke", "--python", environment.python).code == 0
    done = gaudi_patch(
        *("recipe", "remote", "--lmcache", version, "--storage", f"lm://127.0.0.1:{port}", "--out", tmp_path)
    )
    assert done.code == 0
    # `python3` is the one of the serving environment, as in an image.
    with started(tmp_path / "server.sh", environment) as process:
        wait_for(port, process, tmp_path / "log")


@pytest.mark.parametrize("pair", [pair for pair in WANTED if pair.lmcache == "0.5.6"], ids=str)
def test_the_multiprocess_server_comes_up(pair: Pair, tmp_path: Path) -> None:
    """In an environment with vLLM, which brings the server's dependencies; run only if pairs are requested."""
    try:
        environment = vllm_pairs.private_environment(pair, tmp_path)
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")
    out = tmp_path / "out"
    assert gaudi_patch("apply", "--no-smoke", "--python", environment.python).code == 0
    done = gaudi_patch(
        "recipe",
        "multiprocess",
        "--python",
        environment.python,
        "--cpu-gb",
        "0.5",
        "--max-model-len",
        "2048",
        "--out",
        out,
    )
    assert done.code == 0, done.err
    port, http, metrics = free_port(), free_port(), free_port()
    # Arguments after the script's own win: another test may be using its ports.
    ports = ("--port", str(port), "--http-port", str(http), "--prometheus-port", str(metrics))
    with started(out / "server.sh", environment, *ports) as process:
        wait_for(port, process, out / "log")
        wait_for(http, process, out / "log")
