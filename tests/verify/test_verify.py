"""`verify`, as a user runs it, against a real HTTP server: what passes, and that nothing else does."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from gaudi_patch.cli.run import guarded
from gaudi_patch.commands.verify import described
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import Text
from gaudi_patch.verify import counters
from gaudi_patch.verify.client import Server
from gaudi_patch.verify.round_trip import Wanted, ask
from tests.support import output_schema
from tests.support.cli import Done, gaudi_patch
from tests.verify.servers import Behaviour, serving

# A silent or endless server stops when its client leaves, so this timeout can be generous.
PATIENCE = 100.0


def verified(behaviour: Behaviour, *arguments: str, key: str = "") -> Done:
    with serving(behaviour) as url:
        env = {"VLLM_API_KEY": key} if key else {}
        return gaudi_patch("verify", "--url", url, "--tokens", "1000", *arguments, env=env)


def test_a_server_that_gives_its_kv_back_passes_and_says_how_much_and_how_fast() -> None:
    behaviour = Behaviour()
    data = verified(behaviour, "--json").json["data"]
    assert (data["prompt_tokens"], data["expected_tokens"]) == (1000, 768)
    assert (data["first"]["hit_tokens"], data["second"]["hit_tokens"]) == (0, 768)
    assert data["equal"] is True
    assert 0 < data["first"]["ttft_seconds"] <= data["first"]["seconds"] < PATIENCE
    assert behaviour.asked.count("/v1/completions") == 2
    first = behaviour.asked.index("/v1/completions")
    assert "/reset_prefix_cache" in behaviour.asked[first : behaviour.asked.index("/v1/completions", first + 1)]
    text = verified(Behaviour())
    assert text.code == 0
    assert "768 tokens from LMCache" in text.out
    assert "reuses cached KV" in text.out


@pytest.mark.parametrize(
    ("behaviour", "exit_code", "code"),
    [
        (Behaviour(stores=False), 1, "no-hits"),
        (Behaviour(given=0), 1, "no-hits"),
        (Behaviour(given=512), 1, "few-hits"),
        (Behaviour(wrong=True), 1, "answers-differ"),
        (Behaviour(dev_mode=False), 4, "no-reset"),
        (Behaviour(forgets=False), 4, "not-reset"),
        (Behaviour(reset_answer='{"success": false}'), 4, "not-reset"),
        (Behaviour(reset_answer='{"success": "no"}'), 4, "not-reset"),
        (Behaviour(reset_answer='{"error": {"message": "engine is dead"}}'), 4, "not-reset"),
        (Behaviour(reset_answer="<html>log in</html>"), 4, "malformed-answer"),
        (Behaviour(counts=False), 4, "hits-unknown"),
        (Behaviour(others=5), 4, "busy-server"),
        (Behaviour(breaks_off=True), 4, "malformed-answer"),
        (Behaviour(fails="out of memory"), 4, "malformed-answer"),
        (Behaviour(key="secret"), 4, "unauthorized"),
        (Behaviour(empty=True), 4, "malformed-answer"),
        (Behaviour(longest=1000), 2, "usage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_proved_does_not_pass(behaviour: Behaviour, exit_code: int, code: str) -> None:
    with serving(behaviour) as url:
        wanted = Wanted(tokens=1000, settle=0)
        result = guarded("verify", lambda: described(ask(Server(url, "", 60), wanted, seed=1)), False)
    (error,) = result.errors
    assert (int(result.exit), error.code) == (exit_code, code)
    output_schema.hold(result.to_json())
    assert not [block for block in result.blocks if isinstance(block, Text) and block.style == "good"]


def test_two_answers_are_shown_and_cannot_command_the_terminal() -> None:
    done = verified(Behaviour(wrong=True))
    assert done.code == 1
    assert "computed: 'a b c'" in done.err
    assert "\x1b" not in done.out + done.err


def test_the_key_comes_from_the_environment_and_is_shown_nowhere() -> None:
    done = verified(Behaviour(key="s3cret"), key="s3cret")
    assert done.code == 0
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize("key", ["topsecret\n", "top secret", "topsecr\xe9t"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    done = verified(Behaviour(key="topsecret"), key=key)
    assert done.code == 2
    assert "VLLM_API_KEY" in done.err
    assert "topsecr" not in done.out + done.err and "top secret" not in done.out + done.err


@pytest.mark.parametrize("timeout", ["nan", "inf"])
def test_a_timeout_that_is_no_time_is_a_usage_error(timeout: str) -> None:
    assert verified(Behaviour(), "--timeout", timeout).code == 2


def test_each_run_sends_another_prompt() -> None:
    behaviour = Behaviour()
    with serving(behaviour) as url:
        for _ in range(2):
            done = gaudi_patch("verify", "--url", url, "--tokens", "600", "--json")
            assert done.json["data"]["first"]["hit_tokens"] == 0
    assert len(behaviour.kept) == 2


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://user:key@host", "http://host:99999", "http://host/?a=b"]
)
def test_a_url_that_means_nothing_is_a_usage_error(url: str) -> None:
    done = gaudi_patch("verify", "--url", url, "--json")
    assert (done.code, done.code_of_error) == (2, "usage")


def test_a_server_that_is_not_there_or_says_nothing_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = gaudi_patch(
            "verify", "--url", f"http://127.0.0.1:{port}", "--timeout", "0.5", "--json", timeout=PATIENCE
        )
        assert (done.code, done.code_of_error) == (4, "unreachable")
    done = gaudi_patch("verify", "--url", f"http://127.0.0.1:{port}", "--json", timeout=PATIENCE)
    assert (done.code, done.code_of_error) == (4, "unreachable")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/v1/completions", "/reset_prefix_cache"])
def test_an_error_whose_body_never_comes_ends_in_time(path: str) -> None:
    began = time.monotonic()
    with serving(Behaviour(stalls=path)) as url, pytest.raises(GaudiPatchError) as caught:
        ask(Server(url, "", 0.5), Wanted(tokens=600, settle=0), seed=1)
    assert time.monotonic() - began < PATIENCE
    assert caught.value.code == "server-error"
    assert "out of memory" in caught.value.details[0]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/completions", "/reset_prefix_cache"])
def test_an_answer_that_never_ends_ends_in_time(path: str) -> None:
    began = time.monotonic()
    with serving(Behaviour(drips=path)) as url, pytest.raises(GaudiPatchError) as caught:
        ask(Server(url, "", 0.5), Wanted(tokens=600, settle=0), seed=1)
    assert time.monotonic() - began < PATIENCE
    assert (caught.value.code, "does not end" in str(caught.value)) == ("unreachable", True)


@pytest.mark.parametrize("path", ["/health", "/v1/completions"])
def test_headers_that_never_end_end_in_time(path: str) -> None:
    began = time.monotonic()
    with serving(Behaviour(drips_headers=path)) as url, pytest.raises(GaudiPatchError) as caught:
        ask(Server(url, "", 0.5), Wanted(tokens=600, settle=0), seed=1)
    assert time.monotonic() - began < PATIENCE
    assert (caught.value.code, "headers of its answer do not end" in str(caught.value)) == ("unreachable", True)


def test_a_reset_that_is_refused_while_blocks_are_held_is_asked_for_again() -> None:
    behaviour = Behaviour(refused_resets=2)
    assert verified(behaviour).code == 0
    assert behaviour.asked.count("/reset_prefix_cache") == 3


@pytest.mark.parametrize("answer", ["", '{"success": true}', "{}"])
def test_a_reset_that_happened_is_taken_whatever_form_it_is_answered_in(answer: str) -> None:
    with serving(Behaviour(reset_answer=answer)) as url:
        Server(url, "", 60).reset()


def test_another_model_than_those_that_are_served_is_named() -> None:
    done = verified(Behaviour(), "--model", "large", "--json")
    assert (done.code, done.code_of_error) == (2, "unknown-model")
    assert "tiny" in done.json["errors"][0]["hint"]


def test_a_prompt_of_less_than_a_chunk_proves_nothing() -> None:
    done = verified(Behaviour(), "--chunk-size", "2048", "--json")
    assert (done.code, done.code_of_error) == (2, "usage")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("vllm:external_prefix_cache_hits_total 5", 5),
        ('vllm:external_prefix_cache_hits_total{a="} 9"} 5.0 1700000000000', 5),
        ("vllm:external_prefix_cache_hits_total NaN", None),
        ("vllm:external_prefix_cache_hits_total five", None),
        ("vllm:external_prefix_cache_hits_total_more 5", None),
        ("# vllm:external_prefix_cache_hits_total 5", None),
        ("vllm:external_prefix_cache_hits_total 1.5e3\nvllm:external_prefix_cache_hits_total{x=\"1\"} +2", 1502),
    ],
)  # fmt: skip
def test_counters_are_read_as_prometheus_writes_them(text: str, expected: Any) -> None:
    assert counters.read(text).hits == expected
