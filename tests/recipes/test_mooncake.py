"""A recipe over Mooncake, with its own master and client over TCP: PyPI's wheel without CUDA, Debian's libibverbs."""

from __future__ import annotations

import ctypes.util
import re
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.recipes import serving
from tests.recipes.test_multiprocess_stores import comes
from tests.recipes.test_stores import Recipe, patched, recipe
from tests.support import environments
from tests.support.cli import gaudi_patch
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable

__all__ = ["patched", "recipe"]
NAME, VERSION = "mooncake_transfer_engine_non_cuda", "0.3.13.post1"
LIBRARIES = ("ibverbs", "rdmacm")
CHUNKS, TOKENS = 4, 1024

pytestmark = [
    pytest.mark.wheels,
    pytest.mark.torch,
    pytest.mark.skipif(not all(map(ctypes.util.find_library, LIBRARIES)), reason="no libibverbs, librdmacm"),
]


@pytest.fixture(scope="module")
def mooncake(torch_python: Path) -> Path:
    """Return the directory of Mooncake's packages and programs, unpacked once into the cache."""
    version = environments._interpreter(torch_python).version
    folder = environments.cache_dir() / "tools" / f"mooncake-{VERSION}-{version}"
    try:
        wheel = environments.wheel(VERSION, version, name=NAME)
    except EnvironmentUnavailableError as error:
        unavailable(error)
    with environments._made_once(folder) as missing:
        if missing:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            for program in ("mooncake_master", "mooncake_client"):
                (folder / "mooncake" / program).chmod(0o755)
    return folder


def counted(port: int, name: str) -> float:
    """Return a counter of Mooncake's master; 0 if it is absent."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        found = re.findall(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE)
    return float(found[0]) if found else 0.0


def test_mooncake_gives_the_same_kv_after_the_engine_was_killed_and_its_end_is_a_miss(
    recipe: Recipe, mooncake: Path, tmp_path: Path
) -> None:
    programs = mooncake / "mooncake"
    rpc, metrics, port = (serving.free_port() for _ in range(3))
    folders = [tmp_path / "master", tmp_path / "client"]
    for folder in folders:
        folder.mkdir()
    command = [str(programs / "mooncake_master"), f"--rpc_port={rpc}", f"--metrics_port={metrics}"]
    master = serving.Server(command, rpc, folders[0], {})
    client = None
    try:
        options = ("--host=127.0.0.1", f"--port={port}", f"--master_server_address=127.0.0.1:{rpc}")
        memory = ("--metadata_server=P2PHANDSHAKE", "--global_segment_size=64 MB")
        client = serving.Server([str(programs / "mooncake_client"), *options, *memory], port, folders[1], {})
        script = recipe("0.5.6", f"mooncake://127.0.0.1:{rpc}")
        path = {"PYTHONPATH": f"{serving.INSIDE}:{mooncake}"}
        with serving.engine(script, **path) as first:
            assert "RemoteBackend-mooncakestore" in first.start["backends"]
            first.store(1)
            comes(lambda: int(counted(metrics, "master_put_end_requests_total")), CHUNKS)
        with serving.engine(script, **path) as second:
            assert second.look(1)["promised"] == TOKENS
            assert second.look(2)["promised"] == 0
            client.kill()
            master.kill()
            second.store(3)
            assert second.look(4)["promised"] == 0
            assert second.look(3)["promised"] == TOKENS, "it is in host memory"
    finally:
        for server in (client, master):
            if server is not None:
                server.kill()


def test_releases_whose_connector_is_older_are_refused_with_the_reason() -> None:
    done = gaudi_patch("recipe", "remote", "--lmcache", "0.4.5", "--storage", "mooncake://master.example", "--json")
    assert (done.code, done.code_of_error) == (1, "store-refused"), done
    assert "0.4.6 or later" in done.out


def test_the_client_has_room_for_a_prompt_and_a_pod_has_memory_for_the_client() -> None:
    """All chunks of a prompt are read at once; a request of 8B with 131,072 tokens has 16 GiB."""
    given = ("--lmcache", "0.5.6", "--max-model-len", "131072", "--target", "kubernetes", "--image", "x", "--json")

    def files(storage: str) -> dict[str, str]:
        done = gaudi_patch("recipe", "remote", *given, "--storage", storage)
        assert done.code == 0, done
        found: dict[str, str] = done.json["data"]["files"]
        return found

    def limit(found: dict[str, str]) -> int:
        return max(int(number) for number in re.findall(r"memory: (\d+)Mi", found["kubernetes.yaml"]))

    over_mooncake, over_redis = files("mooncake://kv.example"), files("redis://kv.example")
    (size,) = re.findall(r"mooncake_local_buffer_size[^0-9]+(\d+)", over_mooncake["kubernetes.yaml"])
    assert int(size) == 20 * 2**30 + 64 * 2**20
    assert limit(over_mooncake) - limit(over_redis) == 20 * 1024 + 64
