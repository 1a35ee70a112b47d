"""The files of targets, checked by the tools and schemas of the programs that read them.

kubernetes-validate has the schemas of Kubernetes' releases, check-jsonschema those of the compose specification;
test_docker_compose.py runs Docker's own Compose. systemd-analyze and docker are used if installed. kubeconform is in
none of the registries that tests use.
"""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from gaudi_patch.recipes.compose import MODES
from tests.recipes import targets
from tests.recipes.targets import manifests, started

#: The oldest release that Intel's base operator still names, and a current one.
RELEASES = ("1.29", "1.33")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", MODES)
def test_kubernetes_takes_every_manifest(mode: str, release: str) -> None:
    for document in manifests(mode, ranks=8):
        kubernetes_validate.validate(document, release, strict=True)


def test_kubernetes_notices_a_field_that_there_is_none_of() -> None:
    (document,) = targets.of_kind(manifests("memory"), "Deployment")
    document["spec"]["template"]["spec"]["containers"][0]["startProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, RELEASES[0], strict=True)


def compose_judges(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_compose_specification_takes_every_file_and_notices_a_wrong_one(tmp_path: Path) -> None:
    files = []
    for mode in MODES:
        files.append(tmp_path / f"{mode}.yaml")
        files[-1].write_text(started(mode, "compose", ranks=2).files["compose.yaml"])
    done = compose_judges(*files)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(files[0].read_text().replace("network_mode:", "networkmode:"))
    assert compose_judges(wrong).returncode == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    """The scripts exist, since systemd checks that; a unit with an unknown key is detected."""
    units = []
    for mode in MODES:
        # systemd-analyze resolves specifiers in paths: %% is tested as text.
        folder = tmp_path / f"{mode} files"
        folder.mkdir()
        for name, content in started(mode, "systemd", PurePosixPath(folder)).files.items():
            (folder / name).write_text(content)
            (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)
        units += sorted(str(file) for file in folder.glob("*.service")) + sorted(map(str, folder.glob("*.timer")))
    assert len(units) >= len(MODES)

    def analyzed(file: str) -> str:
        done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
        # Ignore the units of this machine that it also follows.
        return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line)

    assert [analyzed(unit) for unit in units] == [""] * len(units)
    wrong = Path(units[0])
    wrong.write_text(wrong.read_text().replace("LimitMEMLOCK=", "LimitMemoryLock="))
    assert "LimitMemoryLock" in analyzed(str(wrong))


class _Daemon(BaseHTTPRequestHandler):
    """The part of docker's daemon that `docker run --detach` needs; it records the created containers."""

    created: list[tuple[str, dict[str, Any]]]

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    do_GET = do_HEAD  # noqa: N815 - the name is http.server's

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/containers/create" in self.path:
            self.created.append((self.path.rpartition("name=")[2], json.loads(body)))
            self._answer(201, b'{"Id": "0123456789ab", "Warnings": []}')
        else:
            self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", "1.43")
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker's client is not installed")
@pytest.mark.parametrize("mode", MODES)
def test_docker_understands_the_lines_that_run_the_containers(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "docker-run.sh").write_text(started(mode, "compose", ranks=2, cpu_gb=30.0).files["docker-run.sh"])
    handler = type("Handler", (_Daemon,), {"created": []})
    socket = tmp_path / "d.sock"
    with socketserver.ThreadingUnixStreamServer(str(socket), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": f"unix://{socket}", "HOME": str(tmp_path)}

        def run(**more: str) -> subprocess.CompletedProcess[str]:
            command = ["sh", str(folder / "docker-run.sh")]
            return subprocess.run(
                command, capture_output=True, text=True, env=environment | more, timeout=60, check=False
            )

        refused = run()
        assert refused.returncode != 0
        assert "set VLLM_API_KEY" in refused.stderr
        assert handler.created == []  # type: ignore[attr-defined]
        done = run(VLLM_API_KEY="secret")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    created = dict(handler.created)  # type: ignore[attr-defined]
    engines = {name: one for name, one in created.items() if name.startswith("vllm")}
    assert engines
    for one in engines.values():
        host = one["HostConfig"]
        assert host["Runtime"] == "habana"
        assert host["CapAdd"] == ["SYS_NICE"] or host["CapAdd"] == ["CAP_SYS_NICE"] or host["CapAdd"] == ["sys_nice"]
        assert host["IpcMode"] == host["NetworkMode"] == "host"
        assert host["Ulimits"] == [{"Name": "memlock", "Hard": -1, "Soft": -1}]
        assert host["Memory"] > (0 if mode == "multiprocess" else 60 * 2**30)
        mounts = {mount["Target"]: mount for mount in host["Mounts"]}
        assert mounts["/etc/lmcache"]["Source"] == str(folder)
        assert mounts["/etc/lmcache"]["ReadOnly"] is True
        assert mounts["/models"]["Source"] == str(folder / "models")
        assert "VLLM_API_KEY=secret" in one["Env"]
        assert one["Image"] == targets.IMAGE
        assert one["Cmd"][0].startswith("/etc/lmcache/")
