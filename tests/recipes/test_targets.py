"""The start-up files of a recipe: each target runs its scripts with what they need, and lists what it cannot know."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.recipes.compose import MODES
from gaudi_patch.recipes.targets.plan import plan
from gaudi_patch.recipes.targets.write import NAMES
from gaudi_patch.sizing.plan import GIB, RANK_OVERHEAD
from tests.recipes import targets
from tests.recipes.targets import IMAGE, WEIGHTS, manifests, of_kind, started
from tests.recipes.test_compose import recipe, release
from tests.support.cli import gaudi_patch


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = (*of_kind(documents, "Deployment"), *of_kind(documents, "DaemonSet"))
    return [document["spec"]["template"]["spec"] for document in kinds]


def engines(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for pod in pods(documents) for one in pod["containers"] if one["name"] == "vllm"]


def mebibytes(text: str) -> int:
    return int(text.removesuffix("Mi"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", NAMES)
def test_every_script_that_stays_up_is_started_and_is_the_recipes_own(mode: str, target: str) -> None:
    settings = {"storage": targets.SERVED} if mode in ("remote", "disaggregated") else {}
    plain, found = recipe(mode, **settings), started(mode, target, **settings)
    assert found.config == plain.config
    if target == "kubernetes":
        data = of_kind(manifests(mode), "ConfigMap")[0]["data"]
        assert data == {name: plain.files[name] for name in plain.files if name != "mi300x.sh"}
    else:
        assert {name: found.files[name] for name in plain.files} == plain.files
    if target == "scripts":
        assert found.files == plain.files
        return
    text = "\n".join(content for name, content in found.files.items() if name not in plain.files)
    for name in plain.files:
        if name.endswith(".sh"):
            elsewhere = {"systemd": (), "compose": ("mi300x.sh", "clean.sh"), "kubernetes": ("mi300x.sh",)}
            assert (f"/{name}" in text) == (name not in elsewhere[target]), name


@pytest.mark.parametrize(("mode", "ranks"), targets.CASES)
def test_an_engine_has_its_cards_and_the_memory_of_its_pools(mode: str, ranks: int) -> None:
    pool = 40.0
    documents = manifests(mode, ranks=ranks, cpu_gb=pool)
    found = engines(documents)
    assert len(found) == (2 if mode == "disaggregated" else 1)
    for container in found:
        limits = container["resources"]["limits"]
        assert limits["habana.ai/gaudi"] == ranks
        assert limits["hugepages-2Mi"] == "95000Mi"
        pools = 0 if mode == "multiprocess" else ranks * pool * GIB
        least = pools + WEIGHTS + ranks * RANK_OVERHEAD
        assert least <= mebibytes(limits["memory"]) * 2**20 <= least + 17 * GIB
        assert "SYS_NICE" in container["securityContext"]["capabilities"]["add"]
    if mode == "multiprocess":
        (server,) = [pod["containers"][0] for pod in pods(documents) if pod["containers"][0]["name"] == "server"]
        assert mebibytes(server["resources"]["limits"]["memory"]) * 2**20 >= pool * GIB
        assert "habana.ai/gaudi" not in server["resources"]["limits"]


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_waits_for_the_warm_up_and_runs_the_attested_lmcache(mode: str) -> None:
    for pod in pods(manifests(mode)):
        container = pod["containers"][0]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "VLLM_PORT of a Service called vllm would be a URL"
        if container["name"] == "server":
            continue
        (check,) = pod["initContainers"]
        assert check["image"] == container["image"] == IMAGE
        assert check["command"][1:] == ["check", "--python", "python3", "--against", "/etc/gaudi-patch.json"]
        probe = container["startupProbe"]
        assert probe["httpGet"]["path"] == "/health"
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * 3600
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("mode", MODES)
def test_every_reference_within_the_manifests_has_its_end(mode: str) -> None:
    documents = manifests(mode)
    claims = {one["metadata"]["name"] for one in of_kind(documents, "PersistentVolumeClaim")}
    maps = {one["metadata"]["name"] for one in of_kind(documents, "ConfigMap")}
    for pod in pods(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": "vllm-models"})["claimName"] in claims
            assert volume.get("configMap", {"name": "lmcache"})["name"] in maps
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in documents if one["kind"] == "Deployment"]
    for service in of_kind(documents, "Service"):
        assert service["spec"]["selector"] in labels


def test_keys_come_from_a_secret_and_a_pod_without_one_does_not_start() -> None:
    text = started("memory", "kubernetes").files["kubernetes.yaml"]
    assert "kind: Secret" not in text
    (container,) = engines(manifests("memory"))
    keys = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]}
    assert keys["VLLM_API_KEY"] == {"name": "vllm", "key": "api-key", "optional": False}
    assert keys["HF_TOKEN"]["optional"] is True


def test_engines_of_multiprocess_mode_share_memory_and_network_with_the_server_of_their_node() -> None:
    documents = manifests("multiprocess")
    assert [one["metadata"]["name"] for one in of_kind(documents, "DaemonSet")] == ["lmcache-server"]
    found = pods(documents)
    assert len(found) == 2
    for pod in found:
        assert pod["hostIPC"] is pod["hostNetwork"] is True
    assert found[0]["nodeSelector"] == found[1]["nodeSelector"]
    assert all("hostIPC" not in pod for pod in pods(manifests("shared")))


def test_a_store_of_all_is_a_claim_and_a_disk_of_one_is_gone_with_its_pod() -> None:
    shared, disk = manifests("shared", cpu_gb=20.0), manifests("disk", disk_gb=100.0, ranks=2)
    (claim,) = [one for one in of_kind(shared, "PersistentVolumeClaim") if one["metadata"]["name"] == "lmcache-kv"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "56Gi", "50 is what the cleaner keeps; 10 % more"
    (job,) = of_kind(shared, "CronJob")
    cleaner = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert cleaner["command"] == ["/bin/sh", "/etc/lmcache/clean.sh"]
    assert {"name": "store", "mountPath": "/mnt/lmcache"} in cleaner["volumeMounts"]
    (container,) = engines(shared)
    assert {"name": "store", "mountPath": "/mnt/lmcache"} in container["volumeMounts"]
    (pod,) = pods(disk)
    assert {"name": "disk-0", "emptyDir": {"sizeLimit": "210Gi"}} in pod["volumes"]
    assert {"name": "disk-0", "mountPath": "/var/lib/lmcache/engine-8000"} in pod["containers"][0]["volumeMounts"]


def test_a_directory_below_a_server_has_room_for_what_an_earlier_start_left() -> None:
    documents = manifests("multiprocess", storage="/var/lib/lmcache", disk_gb=100.0, ranks=2)
    (pod,) = [one["spec"]["template"]["spec"] for one in of_kind(documents, "DaemonSet")]
    assert {"name": "disk-0", "emptyDir": {"sizeLimit": "420Gi"}} in pod["volumes"], "2 ranks x 100, twice, and 5 %"
    (config,) = of_kind(documents, "ConfigMap")
    assert '"$here/clean.py" /var/lib/lmcache --keep-gb 200' in config["data"]["server.sh"]
    assert "clean.py" in config["data"]


@pytest.mark.parametrize("storage", [None, "lm://127.0.0.1:65432", "lm://10.0.0.7:1"])
def test_a_server_that_other_pods_would_not_reach_is_refused(storage: str | None) -> None:
    with pytest.raises(GaudiPatchError) as caught:
        started("remote", "kubernetes", storage=storage)
    assert (int(caught.value.exit), caught.value.code) == (2, "unreachable-server")
    assert "lm://lmcache-server:" in caught.value.hint
    (server,) = [one for one in pods(manifests("remote")) if one["containers"][0]["name"] == "server"]
    assert server["hostname"] == "lmcache-server", "its own address has the name that the engines use"


def test_two_engines_of_a_compose_file_have_different_cards_and_health_checks() -> None:
    services = yaml.safe_load(started("disaggregated", "compose", ranks=4).files["compose.yaml"])["services"]
    cards = [services[name]["environment"]["HABANA_VISIBLE_DEVICES"] for name in ("vllm-prefill", "vllm-decode")]
    assert cards == ["0,1,2,3", "4,5,6,7"]
    for name, port in (("vllm-prefill", 8100), ("vllm-decode", 8200)):
        assert f":{port}/health" in services[name]["healthcheck"]["test"][-1]
        assert services[name]["depends_on"] == {"lmcache-server": {"condition": "service_started"}}


def test_a_store_that_is_not_mounted_is_no_empty_directory() -> None:
    service = yaml.safe_load(started("shared", "compose").files["compose.yaml"])["services"]["vllm"]
    (store,) = [one for one in service["volumes"] if one["target"] == "/mnt/lmcache"]
    assert store["bind"]["create_host_path"] is False
    assert "RequiresMountsFor=/mnt/lmcache" in started("shared", "systemd").files["vllm.service"]


def test_units_start_what_lies_in_the_recipes_folder() -> None:
    units = started("multiprocess", "systemd").files
    assert 'ExecStart="/opt/lm cache/100%%/serve.sh"' in units["vllm.service"]
    assert "After=network-online.target lmcache-server.service" in units["vllm.service"]
    for name in ("vllm.service", "lmcache-server.service"):
        assert "LimitMEMLOCK=infinity" in units[name]
        assert "Restart=on-failure" in units[name]


def test_weights_that_are_not_known_are_said_to_be_missing() -> None:
    found = gaudi_patch(
        "recipe", "memory", "--lmcache", "0.5.6", "--target", "systemd", "--model", "nobody/knows", "--json"
    ).json["data"]
    assert any("the memory limits do not include it" in note for note in found["notes"])
    assert found["target"] == "systemd"
    unknown = plan("memory", release(), *_settings(), None)
    assert unknown.weights is None


def test_a_password_of_a_store_comes_from_the_secret_and_is_in_no_file() -> None:
    storage = {"storage": "rediss://cache@redis.example:6380"}
    (container,) = engines(manifests("remote", **storage))
    asked = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    assert asked["LMCACHE_RESP_PASSWORD"] == {"name": "vllm", "key": "lmcache-resp-password", "optional": False}
    text = started("remote", "compose", **storage).files["compose.yaml"]
    assert "LMCACHE_RESP_PASSWORD: ${LMCACHE_RESP_PASSWORD:?set LMCACHE_RESP_PASSWORD}" in text
    assert "LMCACHE_RESP_PASSWORD=" in " ".join(started("remote", "systemd", **storage).notes)


def test_a_timer_and_no_restart_removes_old_chunks() -> None:
    units = started("shared", "systemd").files
    assert "Type=oneshot" in units["lmcache-clean.service"]
    assert "Restart=" not in units["lmcache-clean.service"]
    assert "OnUnitInactiveSec=15min" in units["lmcache-clean.timer"]


def _settings() -> tuple[Any, Any]:
    from gaudi_patch.recipes.compose import Settings

    return Settings(), recipe("memory")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--target", "nomad"], "unknown-target"),
        (["--target", "kubernetes"], "usage"),
        (["--target", "compose"], "usage"),
        (["--target", "systemd", "--image", "x"], "usage"),
        (["--image", "x"], "usage"),
        (["--target", "compose", "--image", "$(id)"], "usage"),
    ],
)
def test_a_target_that_is_not_whole_is_refused_and_writes_nothing(
    arguments: list[str], code: str, tmp_path: Path
) -> None:
    done = gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", *arguments, "--json", "--out", tmp_path / "out")
    assert (done.code, done.code_of_error) == (2, code)
    assert not (tmp_path / "out").exists()


def test_the_units_name_the_directory_that_they_are_written_to(tmp_path: Path) -> None:
    done = gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", "--target", "systemd", "--out", tmp_path / "x")
    assert done.code == 0
    assert f"ExecStart={tmp_path}/x/serve.sh" in (tmp_path / "x" / "vllm.service").read_text()
    assert (
        "ExecStart=/etc/lmcache/serve.sh"
        in started("memory", "systemd", PurePosixPath("/etc/lmcache")).files["vllm.service"]
    )
