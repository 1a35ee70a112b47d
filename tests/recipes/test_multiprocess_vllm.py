"""Multiprocess mode over a directory and Redis: a real vLLM gives identical answers after all processes were killed.

The recipe's own scripts start vLLM's API server and LMCache's server. vLLM's own prefix cache is off there, and both
lose their memory: what hits has come from the store. Two starts of each take minutes: GAUDI_PATCH_TEST_FULL=1 runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gaudi_patch.verify import counters
from gaudi_patch.verify.round_trip import _WORDS
from tests.integration.test_vllm_pairs import WANTED
from tests.recipes import serving
from tests.recipes.test_multiprocess_stores import comes, files
from tests.recipes.test_multiprocess_stores import started as server_started
from tests.recipes.test_servers import started
from tests.recipes.test_stores import needs_redis
from tests.support import vllm_pairs
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable
from tests.support.vllm_pairs import PAIRS
from tests.support.vllm_server import OPTIONS, healthy, variables, write_model

FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
PAIR = next((pair for pair in WANTED if pair.lmcache == "0.5.6"), PAIRS[0])
pytestmark = [
    pytest.mark.wheels,
    pytest.mark.torch,
    pytest.mark.skipif(not FULL, reason="starts vLLM twice, which takes minutes: GAUDI_PATCH_TEST_FULL=1 runs it"),
]
#: 600 words are 600 tokens: two whole chunks, and a rest that is computed.
CHUNKS, HITS = 2, 512
PROMPT = " ".join(_WORDS[at % len(_WORDS)] for at in range(3, 603))


@dataclass(frozen=True)
class Answer:
    """The tokens that vLLM generated, and its count of prompt tokens that the connector loaded for them."""

    tokens: tuple[int, ...]
    hits: int


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose socket paths stay short."""
    return tmp_path_factory.mktemp("v")


@pytest.fixture
def environment(place: Path) -> Environment:
    try:
        made = vllm_pairs.private_environment(PAIR, place, server=True)
    except EnvironmentUnavailableError as error:
        unavailable(error)
    assert gaudi_patch("apply", "--no-smoke", "--python", made.python).code == 0
    return made


class Serving:
    """A recipe's directory of scripts, and the vLLM that its serve.sh starts."""

    def __init__(self, environment: Environment, place: Path, storage: str) -> None:
        self.environment, self.scripts, self.port = environment, place / "out", serving.free_port()
        self.variables = variables(place, PAIR.vllm)
        self.model = place / "m"
        write_model(self.model, environment)
        given = ("--python", environment.python, "--model", self.model, "--storage", storage, "--max-model-len", "1024")
        ports = ("--port", str(self.port), "--bind", "127.0.0.1", "--cpu-gb", "0.1")
        done = gaudi_patch("recipe", "multiprocess", *given, *ports, "--out", self.scripts)
        assert done.code == 0, done.err
        free = {"5555": str(serving.free_port()), "5556": str(serving.free_port())}
        for script in self.scripts.glob("*.sh"):
            script.write_text(re.sub("555[56]", lambda found: free[found[0]], script.read_text()))

    @contextlib.contextmanager
    def vllm(self) -> Iterator[None]:
        """Start serve.sh and wait until it is healthy; all its processes are killed at the end."""
        script = self.scripts / "serve.sh"
        with started(script, self.environment, *OPTIONS, variables=self.variables) as process:
            healthy(self.port, process, self.scripts / "log")
            yield

    def ask(self) -> Answer:
        """Complete the prompt, and wait until vLLM has counted it."""
        url, before = f"http://127.0.0.1:{self.port}", self._counted()
        asked = {"model": str(self.model), "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
        body = json.dumps({**asked, "return_token_ids": True}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            tokens = tuple(json.load(answer)["choices"][0]["token_ids"])
        deadline = time.monotonic() + 30
        while (after := self._counted())[0] == before[0]:
            assert time.monotonic() < deadline, "vLLM does not count the prompt"
            time.sleep(0.2)
        return Answer(tokens, after[1] - before[1])

    def said(self) -> str:
        return (self.scripts / "log").read_text(errors="replace")[-6000:]

    def _counted(self) -> tuple[int, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as page:
            found = counters.read(page.read().decode())
        return found.prompts or 0, found.hits or 0


def answers_the_same_after_all_were_killed(
    served: Serving, kept: Callable[[], int], between: Callable[[], None] = lambda: None
) -> None:
    with server_started(served.scripts) as server:
        with served.vllm():
            first = served.ask()
            assert (len(first.tokens), first.hits) == (16, 0), (first, served.said())
            assert len(set(first.tokens)) > 1, "an answer that does not depend on the prompt would prove nothing"
            comes(kept, CHUNKS)
        server.kill()
        between()
        server.start()
        with served.vllm():
            assert served.ask() == Answer(first.tokens, HITS), served.said()


def test_a_real_vllm_answers_the_same_from_a_directory(environment: Environment, place: Path) -> None:
    below = place / "below"
    answers_the_same_after_all_were_killed(Serving(environment, place, str(below)), lambda: len(files(below)))


@needs_redis
def test_a_real_vllm_answers_the_same_from_redis(environment: Environment, place: Path) -> None:
    with serving.redis(place, "--appendfsync", "always") as below:

        def again() -> None:
            below.kill()
            below.start()

        served = Serving(environment, place, f"redis://127.0.0.1:{below.port}")
        answers_the_same_after_all_were_killed(served, lambda: serving.keys_of(below), again)
