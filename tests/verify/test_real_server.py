"""`verify` against a real vLLM: a recipe's script starts its API server with the patched LMCache, on the emulated HPU.

Processes, scheduler and metrics page are vLLM's own; the model is the tiny one of smoke, run by smoke's plugin.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path

import pytest

from gaudi_patch.verify import counters
from gaudi_patch.verify.round_trip import _WORDS
from tests.integration.test_vllm_pairs import WANTED
from tests.recipes.test_servers import free_port, started
from tests.support import vllm_pairs
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable
from tests.support.vllm_pairs import Pair
from tests.support.vllm_server import OPTIONS, healthy, variables, write_model

pytestmark = [pytest.mark.wheels, pytest.mark.torch]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose socket paths stay short."""
    return tmp_path_factory.mktemp("v")


@pytest.fixture(params=[pair for pair in WANTED if pair.lmcache == "0.5.6"][:1], ids=str)
def environment(request: pytest.FixtureRequest, place: Path) -> Environment:
    pair: Pair = request.param
    try:
        made = vllm_pairs.private_environment(pair, place, server=True)
    except EnvironmentUnavailableError as error:
        unavailable(error)
    assert gaudi_patch("apply", "--no-smoke", "--python", made.python).code == 0
    return made


def lmcache_hits(url: str) -> float | None:
    """Return LMCache's own count of hits on vLLM's metrics page; LMCache updates it every ten seconds."""
    deadline, found = time.monotonic() + 40, None
    while not found and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            page = answer.read().decode()
        for line in page.splitlines():
            if line.startswith("lmcache:num_hit_tokens_total"):
                found = float(line.split()[-1])
    return found


def hits_after_a_skipped_save(url: str, model: str) -> float:
    """Return LMCache's hit tokens for a prompt whose first request asked LMCache not to store it."""
    text = " ".join(_WORDS[at % len(_WORDS)] for at in range(7, 607))
    asked = {"model": model, "prompt": text, "max_tokens": 1, "kv_transfer_params": {"lmcache.skip_save": True}}

    def post(path: str, body: object = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=120):
            pass

    def hits() -> float:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            return counters.read(answer.read().decode()).hits or 0.0

    before = hits()
    post("/v1/completions", asked)
    post("/reset_prefix_cache")
    post("/v1/completions", asked)
    time.sleep(1)
    return hits() - before


def test_a_real_server_gives_its_kv_back_and_its_page_has_what_lmcache_counts(
    environment: Environment, place: Path
) -> None:
    model, out, port = place / "m", place / "out", free_port()
    write_model(model, environment)
    options = ("--model", model, "--max-model-len", "1024", "--port", str(port), "--bind", "127.0.0.1", "--out", out)
    done = gaudi_patch("recipe", "memory", "--python", environment.python, *options)
    assert done.code == 0, done.err
    stale = place / f"vllm-metrics-{os.getuid()}-{port}" / "counter_1.db"
    stale.parent.mkdir(mode=0o700)
    stale.write_bytes(b"of an earlier start")
    with started(
        out / "serve.sh", environment, *OPTIONS, variables=variables(place, environment.prefix.name.partition("x")[2])
    ) as process:
        healthy(port, process, out / "log")
        assert not stale.exists()
        url = f"http://127.0.0.1:{port}"
        found = gaudi_patch("verify", "--url", url, "--tokens", "700", "--json", timeout=300)
        hits = lmcache_hits(url)
        skipped = hits_after_a_skipped_save(url, str(model))
    said = (out / "log").read_text(errors="replace")[-6000:]
    assert found.code == 0, (found, said)
    data = found.json["data"]
    assert (data["equal"], data["first"]["hit_tokens"], data["second"]["hit_tokens"]) == (True, 0, 512), data
    assert hits == 512.0
    assert skipped == 0, "lmcache.skip_save"
