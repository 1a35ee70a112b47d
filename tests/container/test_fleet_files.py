"""The files for fleets are valid, gaudi-patch accepts their commands, and the playbook distinguishes hosts.

kubernetes-validate and ansible-core come with the extra `test`; GAUDI_PATCH_TEST_ANSIBLE names another
ansible-playbook. ansible-lint was run by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from gaudi_patch.attestation import signing
from gaudi_patch.commands.check import compared
from gaudi_patch.disk import Disk
from tests.attestation.conftest import apply
from tests.attestation.test_signing import keys
from tests.guides import parts
from tests.recipes.test_target_tools import RELEASES
from tests.support import tiny
from tests.support.cli import command, environment

FOLDER = Path(__file__).resolve().parents[2] / "gaudi_patch" / "container" / "fleet"
KUBERNETES = ("job.yaml", "daemonset.yaml")


def documents(name: str) -> Any:
    (found,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return found


def containers(name: str) -> list[dict[str, Any]]:
    spec = documents(name)["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def lines(value: Any) -> Iterator[list[str]]:
    """Yield every command line of gaudi-patch in a document."""
    if isinstance(value, dict):
        for one in value.values():
            yield from lines(one)
    elif isinstance(value, list):
        if value and isinstance(value[0], str) and value[0].endswith(("gaudi-patch", "default('gaudi-patch') }}")):
            yield value[1:]
        for one in value:
            yield from lines(one)


@pytest.mark.parametrize("name", [*KUBERNETES, "playbook.yml"])
def test_every_command_in_them_is_one_that_gaudi_patch_takes(name: str) -> None:
    found = list(lines(documents(name)))
    assert found
    for arguments in found:
        assert arguments[0] == "check"
        parts.parse(arguments)


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_labels_match_and_no_container_may_more_than_it_needs(name: str) -> None:
    document = documents(name)
    spec = document["spec"]
    assert spec["template"]["metadata"]["labels"] == {"app": "gaudi-patch-check"}
    assert spec.get("selector", {"matchLabels": {"app": "gaudi-patch-check"}}) == {
        "matchLabels": {"app": "gaudi-patch-check"}
    }
    volumes = {volume["name"] for volume in spec["template"]["spec"].get("volumes", [])}
    for container in containers(name):
        assert "@sha256:" in container["image"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        if container["name"] == "check":
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_takes_them_and_notices_a_misspelt_field(name: str, release: str) -> None:
    document = documents(name)
    kubernetes_validate.validate(document, release, strict=True)
    pod = document["spec"]["template"]["spec"]
    pod["containers"][0]["securityContexts"] = pod["containers"][0].pop("securityContext", {})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, release, strict=True)


def test_files_of_a_config_map_which_are_links_are_read(tmp_path: Path) -> None:
    """Kubernetes mounts NAME -> ..data/NAME -> ..2026/NAME."""
    target = tiny.make(tmp_path / "t")
    data = tmp_path / "mount" / "..2026"
    data.mkdir(parents=True)
    pair = keys(data)
    apply(target, data / "gaudi-patch.json")
    signing.Signer(pair.secret).sign(data / "gaudi-patch.json", 1, Disk())
    mount = tmp_path / "mount"
    (mount / "..data").symlink_to("..2026")
    for path in list(data.iterdir()):
        (mount / path.name).symlink_to(f"..data/{path.name}")
    result = compared(target.manifest, target.installation, mount / "gaudi-patch.json", mount / "key.pub")
    assert (int(result.exit), result.data["against"]["differences"]) == (0, [])
    assert result.data["against"]["signed_by"]


def play(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook: the one next to this Python, installed by the extra `test`."""
    playbook = os.environ.get("GAUDI_PATCH_TEST_ANSIBLE") or Path(sys.executable).with_name("ansible-playbook")
    return subprocess.run(
        [playbook, *arguments],
        capture_output=True, text=True, env=environment(HOME=str(home), ANSIBLE_NOCOLOR="1"), check=False,
    )  # fmt: skip


def test_ansible_takes_the_playbook_and_refuses_one_with_a_misspelt_key(tmp_path: Path) -> None:
    text = (FOLDER / "playbook.yml").read_text(encoding="utf-8")
    (tmp_path / "misspelt.yml").write_text(text.replace("failed_when: false", "failedwhen: false"), encoding="utf-8")
    checked = [
        play("-i", "localhost,", "--syntax-check", file, home=tmp_path)
        for file in (FOLDER / "playbook.yml", tmp_path / "misspelt.yml")
    ]
    assert checked[0].returncode == 0, checked[0].stderr
    assert checked[1].returncode != 0
    assert "failedwhen" in checked[1].stdout + checked[1].stderr


def test_the_playbook_fetches_a_report_of_every_host_and_fails_by_the_worst(tmp_path: Path) -> None:
    """Three hosts on this machine: patched, edited, and one that cannot be reached."""
    inventory = ["[all]"]
    tool = tmp_path / "gaudi-patch"
    hosts = {}
    for name in ("patched", "edited"):
        hosts[name] = tiny.make(tmp_path / name)
        hosts[name].apply()
        inventory.append(f"{name} ansible_connection=local python={hosts[name].site}")
    (hosts["edited"].site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    inventory.append("gone ansible_host=127.0.0.1 ansible_port=1 ansible_connection=ssh")
    (tmp_path / "inventory").write_text("\n".join(inventory) + "\n")
    # The environments of these hosts are only directories: --path replaces --python.
    quoted = " ".join(command())
    tool.write_text(
        '#!/bin/sh\n[ "$1" = fleet ] && exec ' + quoted + ' "$@"\n'
        f'exec {quoted} check --json --path "$4" --manifest "$(dirname "$4")/patches"\n'
    )
    tool.chmod(0o755)
    extra = {"tool": str(tool), "reports": str(tmp_path / "reports"), "ansible_python_interpreter": sys.executable}
    (tmp_path / "reports").mkdir()

    done = play("-i", tmp_path / "inventory", "-e", json.dumps(extra), FOLDER / "playbook.yml", home=tmp_path)
    assert (tmp_path / "reports" / "patched.json").is_file(), done.stdout + done.stderr
    assert done.returncode != 0
    assert json.loads((tmp_path / "reports" / "edited.json").read_text())["errors"][0]["code"] == "drift"
    assert "2 of 3 hosts are not in the required state" in done.stdout + done.stderr
    assert "gone: no report" in done.stdout + done.stderr
