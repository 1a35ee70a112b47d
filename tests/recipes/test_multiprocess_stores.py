"""Multiprocess mode over a directory, Redis or S3, from `recipe` to the same KV after the server was killed.

The recipe's own scripts start LMCache's server and a stand-in for vLLM: LMCache's two sides of vLLM, with the script's
configuration, on the emulated HPU.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.recipes import serving
from tests.recipes.test_stores import bucket, needs_redis, needs_valkey
from tests.support import environments, vllm_pairs
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable

pytestmark = [pytest.mark.wheels, pytest.mark.torch]
#: 4 chunks per prompt.
CHUNKS, TOKENS = 4, 1024
#: A prompt of 16 MiB instead of 128 KiB: layers, heads, head size, tokens.
LARGE = "4,8,128,1024"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}
# Before 0.5.5 LMCache refuses vllm-gaudi's layout in multiprocess mode.
FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
RELEASES = ("0.5.6", "0.5.5") if FULL else ("0.5.6",)
VALKEY = [pytest.param("valkey", marks=needs_valkey)] if FULL else []

Recipe = Callable[..., Path]


@pytest.fixture(scope="module", params=RELEASES)
def patched(
    request: pytest.FixtureRequest,
    lmcache_overlay: Callable[[str], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """Return a private environment of the release, patched, with the dependencies of LMCache's server."""
    lmcache_overlay(request.param)
    made = environments.overlay_copy(request.param, tmp_path_factory.mktemp("mp"))
    try:
        server = vllm_pairs.imports()
    except EnvironmentUnavailableError as error:
        unavailable(error)
    (made.site_packages / "_server.pth").write_text(f"{server}\n")
    assert gaudi_patch("apply", "--no-smoke", "--python", made.python).code == 0
    return made


@pytest.fixture
def recipe(patched: Environment, tmp_path: Path) -> Recipe:
    """``recipe(storage)``: the directory of scripts, with free ports, which also name their shared memory."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(serving.CONFIG))

    def write(storage: str, *options: str) -> Path:
        out = tmp_path / "out"
        given = ("--python", patched.python, "--model", model, "--storage", storage, "--cpu-gb", "0.1", "--out", out)
        done = gaudi_patch("recipe", "multiprocess", *given, *options)
        assert done.code == 0, done.err
        ports = {"5555": str(serving.free_port()), "5556": str(serving.free_port())}
        for script in out.glob("*.sh"):
            script.write_text(re.sub("555[56]", lambda found: ports[found[0]], script.read_text()))
        return out

    return write


def clients(folder: Path) -> Path:
    """Return a directory with the dependencies of LMCache's S3 adapter, from this interpreter."""
    there = serving.awscrt_packages(folder)
    for name in ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six"):
        file = Path(str(importlib.import_module(name).__file__))
        source = file.parent if file.name == "__init__.py" else file
        (there / source.name).symlink_to(source)
    return there


class LMCacheServer(serving.Server):
    """The process of server.sh; ready when its health page says so."""

    def __init__(self, scripts: Path, folder: Path) -> None:
        text = (scripts / "server.sh").read_text()
        self.segment = Path("/dev/shm") / re.findall(r"/dev/shm/(\S+)\.lock", text)[0]
        port, http = (int(re.findall(rf"--{name} (\d+)", text)[0]) for name in ("port", "http-port"))
        self.page = f"http://127.0.0.1:{http}"
        super().__init__(["sh", str(scripts / "server.sh")], port, folder, CREDENTIALS)

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + serving.PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.page}/healthcheck", timeout=5):
                return
            time.sleep(0.05)
        self.failed()

    def failed(self) -> NoReturn:
        self.end()
        super().failed()

    def end(self) -> None:
        """Kill it, and remove the shared memory that a killed server leaves."""
        self.kill()
        for left in (self.segment, self.segment.with_name(f"{self.segment.name}.lock")):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def started(scripts: Path) -> Iterator[LMCacheServer]:
    """Yield LMCache's server; at the end, kill it and remove its shared memory."""
    folder = scripts.parent / "server"
    folder.mkdir()
    server = LMCacheServer(scripts, folder)
    try:
        yield server
    finally:
        server.end()


def comes(kept: Callable[[], int], wanted: int) -> None:
    """Wait until a store has the wanted number of chunks."""
    deadline = time.monotonic() + serving.PATIENCE
    while (found := kept()) < wanted:
        assert time.monotonic() < deadline, f"{found} chunks"
        time.sleep(0.05)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.data"))


def rests(folder: Path, seconds: float = 4.0) -> None:
    """Wait until a directory has not changed for a while: the server writes and removes in the background."""
    deadline = time.monotonic() + 60
    before, since = None, time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, "the directory does not come to rest"
        found = sorted((entry.name, entry.stat().st_size) for entry in folder.glob("**/*.data*"))
        if found != before:
            before, since = found, time.monotonic()
        time.sleep(0.1)


def serves_what_was_stored_by_another(
    scripts: Path, kept: Callable[[], int], between: Callable[[], None], down: Callable[[], None] | None = None
) -> None:
    """Kill engine and server after a prompt was stored; new ones must return it, byte for byte.

    Then take the store ``down``, which costs hits but affects neither the server nor the engine.
    """
    with started(scripts) as server:
        with serving.engine(scripts / "serve.sh") as first:
            assert first.start["transfers"] == "EngineDrivenContextShm", "engines map the server's memory"
            first.store(1)
            comes(kept, CHUNKS)
        server.kill()
        between()
        server.start()
        with serving.engine(scripts / "serve.sh") as second:
            assert second.start["transfers"] == "EngineDrivenContextShm", "the next server has its memory, too"
            assert second.look(1)["promised"] == TOKENS
            assert second.look(2)["promised"] == 0
            if down is not None:
                down()
                second.store(3)
                assert second.look(4)["promised"] == 0
                assert second.look(3)["promised"] == TOKENS, "it is in the server's memory"
                assert server.process.poll() is None


def test_a_directory_survives_the_server_and_stays_below_its_size(recipe: Recipe, tmp_path: Path) -> None:
    below = tmp_path / "below"
    scripts, limit = recipe(str(below), "--disk-gb", "0.1"), 0.1 * 2**30

    def size() -> int:
        return sum(file.stat().st_size for file in files(below))

    with started(scripts) as server:
        with serving.engine(scripts / "serve.sh", TEST_SHAPE=LARGE) as first:
            seen: list[Path] = []
            for seed in range(9):  # 144 MiB
                deadline = time.monotonic() + 60
                # What the server's memory, 6 prompts, has no room for is not kept: it makes room in the background.
                while len(seen) < CHUNKS * (seed + 1):
                    assert time.monotonic() < deadline, f"{len(seen)} chunks after prompt {seed}"
                    first.store(seed)
                    time.sleep(0.3)
                    seen.extend(sorted(set(files(below)) - set(seen)))
            rests(below)
            assert 0 < size() <= limit
            assert set(seen[-CHUNKS:]) <= set(files(below)), "the newest prompt stays"
        server.kill()
        newest = files(below)
        for number, file in enumerate(newest):  # left by earlier servers: this one did not count it
            shutil.copyfile(file, below / f"earlier-{number}.data")
            os.utime(below / f"earlier-{number}.data", (1, 1))
        assert size() > limit
        server.start()
        assert size() <= limit
        assert set(newest) <= set(files(below)), "the oldest go"
        with serving.engine(scripts / "serve.sh", TEST_SHAPE=LARGE) as second:
            # The promised tokens arrive: look() checks it. The newest comes first: the server's memory takes 6 prompts,
            # and a prompt for which it has no room at that moment is a miss.
            found = [second.look(seed)["promised"] for seed in reversed(range(9))]
    assert found[0] == TOKENS
    assert min(found) < TOKENS, found


@pytest.mark.parametrize("scheme", [pytest.param("redis", marks=needs_redis), *VALKEY])
def test_redis_gives_the_same_kv_after_both_servers_were_killed(scheme: str, recipe: Recipe, tmp_path: Path) -> None:
    program = str(serving.valkey()) if scheme == "valkey" else "redis-server"
    with serving.redis(tmp_path, "--appendfsync", "always", program=program) as below:

        def again() -> None:
            below.kill()
            below.start()

        scripts = recipe(f"{scheme}://127.0.0.1:{below.port}")
        serves_what_was_stored_by_another(scripts, lambda: serving.keys_of(below), again, below.kill)


def test_s3_gives_the_same_kv_after_the_server_was_killed(recipe: Recipe, patched: Environment, tmp_path: Path) -> None:
    with bucket(tmp_path) as (below, storage):
        lacks = gaudi_patch("recipe", "multiprocess", "--python", patched.python, "--storage", storage)
        assert (lacks.code, "No module named 'awscrt'" in lacks.err) == (4, True), lacks
        (patched.site_packages / "_clients.pth").write_text(f"{clients(tmp_path)}\n")

        def objects() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{below.port}/0x7f") as page:
                return page.read().count(b"<Key>")

        serves_what_was_stored_by_another(recipe(storage), objects, lambda: None, below.kill)
