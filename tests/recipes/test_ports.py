"""Ports of a recipe never collide, and clients reach a server at the address set by --bind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.recipes.compose import MODES
from tests.recipes.targets import IMAGE, manifests, of_kind, started
from tests.recipes.test_compose import recipe, refusal, words
from tests.support.cli import gaudi_patch

LM, REDIS, S3 = "lm://127.0.0.1:8000", "redis://localhost:8000", "s3://b.localhost:8000?region=x&tls=off"


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        *((mode, {"storage": store}) for mode in ("remote", "mixed") for store in (LM, REDIS, S3)),
        *(("disaggregated", {"storage": store}) for store in (LM, REDIS, S3)),  # 8000 is the proxy's
        ("disaggregated", {"storage": "lm://127.0.0.1:8100"}),
        ("disaggregated", {"storage": "redis://127.0.0.1:8200"}),
        ("disaggregated", {"port": 65232, "storage": "lm://127.1:65432"}),
        ("remote", {"port": 6379, "storage": "redis://127.0.0.1"}),
        ("remote", {"port": 443, "storage": "s3://b.localhost?region=x"}),
        ("remote", {"storage": "lm://10.0.0.7:8000", "bind": "10.0.0.7"}),
        ("remote", {"storage": "lm://cache.example:8000", "bind": "10.0.0.7"}),
        ("remote", {"storage": "redis://10.0.0.7:8000", "bind": "10.0.0.7"}),
        ("multiprocess", {"port": 5555}),
        ("multiprocess", {"port": 5556}),
        ("multiprocess", {"storage": "redis://127.0.0.1:5555"}),
        ("multiprocess", {"storage": REDIS}),
        *((mode, {"port": 41611}) for mode in MODES),
    ],
)
def test_two_of_one_host_never_want_one_port(mode: str, settings: dict[str, Any]) -> None:
    assert refusal(mode, **settings) == "usage"


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("remote", {"storage": "lm://10.0.0.7:8000"}),
        ("remote", {"storage": "redis://cache.example:8000"}),
        ("mixed", {"storage": "/mnt/lmcache"}),  # both hosts serve on 8000
        ("shared", {"storage": "/mnt/lmcache"}),
        ("disaggregated", {"storage": "lm://127.0.0.1:8300"}),
    ],
)
def test_a_port_of_another_host_is_no_collision(mode: str, settings: dict[str, Any]) -> None:
    assert recipe(mode, **settings).processes


def test_containers_share_the_ports_of_one_host() -> None:
    with pytest.raises(GaudiPatchError) as caught:
        started("remote", "compose", storage="lm://cache.example:8000")
    assert (caught.value.code, "port 8000" in str(caught.value)) == ("usage", True)
    assert started("remote", "systemd", storage="lm://cache.example:8000").files


def test_a_collision_names_both_and_writes_nothing() -> None:
    done = gaudi_patch("recipe", "remote", "--lmcache", "0.5.6", "--storage", LM, "--json")
    (error,) = done.json["errors"]
    assert (done.code, error["code"]) == (2, "usage")
    assert "vLLM (serve.sh)" in error["message"] and "LMCache's server (server.sh)" in error["message"]


@pytest.mark.parametrize("bind", ["127.0.0.1:8000", "a b", "$(id)", "", "-x"])
@pytest.mark.parametrize("mode", ["memory", "multiprocess"])
def test_what_is_no_address_is_not_bound(mode: str, bind: str) -> None:
    assert refusal(mode, bind=bind) == "usage"


@pytest.mark.parametrize(("mode", "storage"), [("multiprocess", None), ("remote", "lm://cache.example:7000")])
def test_servers_of_lmcache_are_given_no_ipv6_address(mode: str, storage: str | None) -> None:
    assert refusal(mode, bind="::1", storage=storage) == "usage"


BINDS = [(None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("::1", "[::1]"), ("::", "[::1]")]


@pytest.mark.parametrize(
    ("mode", "bind", "asked"),
    # The server of multiprocess mode accepts no IPv6 address.
    [(mode, *pair) for mode in MODES for pair in BINDS if mode != "multiprocess" or ":" not in pair[1]],
)
def test_a_health_check_asks_the_address_that_is_bound(mode: str, bind: str | None, asked: str) -> None:
    settings = {"storage": "/mnt/lmcache"} if mode in ("remote", "disaggregated") else {}
    services = yaml.safe_load(started(mode, "compose", bind=bind, **settings).files["compose.yaml"])["services"]
    engines = [service for name, service in services.items() if name.startswith("vllm")]
    assert engines
    for service in engines:
        assert f"'http://{asked}:" in service["healthcheck"]["test"][-1]


@pytest.mark.parametrize(("bind", "asked"), [pair for pair in BINDS if ":" not in pair[1]])
def test_engines_find_the_multiprocess_server_where_it_listens(bind: str | None, asked: str) -> None:
    found = recipe("multiprocess", bind=bind)
    serve = words(found.files["serve.sh"])
    transfer = json.loads(serve[serve.index("--kv-transfer-config") + 1])
    assert transfer["kv_connector_extra_config"]["lmcache.mp.host"] == f"tcp://{asked}"
    assert any(f"--url http://{asked}:5556" in note for note in found.notes)
    server = words(found.files["server.sh"])
    assert server[server.index("--host") + 1] == (bind or "127.0.0.1")


@pytest.mark.parametrize("bind", [None, "10.0.0.7", "127.0.0.1", "0.0.0.0"])
def test_probes_of_pods_in_their_nodes_network_ask_the_address_that_is_bound(bind: str | None) -> None:
    documents = manifests("multiprocess", bind=bind)
    kinds = (*of_kind(documents, "Deployment"), *of_kind(documents, "DaemonSet"))
    containers = [one for document in kinds for one in document["spec"]["template"]["spec"]["containers"]]
    assert sorted(one["name"] for one in containers) == ["server", "vllm"]
    for container in containers:
        own = bind or {"server": "127.0.0.1", "vllm": "0.0.0.0"}[container["name"]]
        probes = [value["httpGet"] for name, value in container.items() if name.endswith("Probe")]
        assert len(probes) >= 2
        for probe in probes:
            assert probe.get("host") == (None if own == "0.0.0.0" else own)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "multiprocess"])
def test_a_pod_of_its_own_network_is_bound_to_no_address(mode: str) -> None:
    with pytest.raises(GaudiPatchError) as caught:
        started(mode, "kubernetes", bind="10.0.0.7")
    assert (caught.value.code, "--bind 10.0.0.7" in str(caught.value)) == ("usage", True)
    assert IMAGE in started(mode, "kubernetes", bind="0.0.0.0").files["kubernetes.yaml"]
