"""The files of target compose, read by Docker's own Compose: `docker compose config`, which needs no daemon."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.recipes.compose import MODES
from tests.recipes import targets
from tests.support import docker_compose
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable


@pytest.fixture(scope="session")
def program() -> Path:
    """Return Docker's Compose."""
    try:
        return docker_compose.program()
    except EnvironmentUnavailableError as error:
        unavailable(error)


def config(program: Path, file: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return the output of `docker compose config` for a file, isolated from this machine's environment."""
    command = [str(program), "--file", str(file), "config", "--format", "json"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def services(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no variable without a value, and nothing that is out of date"
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_compose_resolves_every_file_to_what_serves(mode: str, program: Path, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(targets.started(mode, "compose", ranks=2, cpu_gb=30.0).files["compose.yaml"])
    found = services(config(program, file, VLLM_API_KEY="a $key", MODELS="/data/models"))
    engines = [one for name, one in found.items() if name.startswith("vllm")]
    assert engines
    for one in engines:
        assert one["image"] == targets.IMAGE
        assert (one["runtime"], one["ipc"], one["network_mode"]) == ("habana", "host", "host")
        assert one["cap_add"] == ["SYS_NICE"]
        assert one["ulimits"] == {"memlock": {"single": -1}} or one["ulimits"] == {"memlock": -1}
        assert int(one["mem_limit"]) > (0 if mode == "multiprocess" else 60 * 2**30)
        assert one["environment"]["VLLM_API_KEY"] == "a $$key", "as JSON of a compose file has a dollar"
        mounts = {mount["target"]: mount for mount in one["volumes"]}
        assert mounts["/etc/lmcache"]["source"] == str(tmp_path)
        assert mounts["/etc/lmcache"]["read_only"] is True
        assert mounts["/models"]["source"] == "/data/models"


def test_compose_refuses_to_start_without_a_key_and_notices_a_wrong_field(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    text = targets.started("memory", "compose").files["compose.yaml"]
    file.write_text(text)
    refused = config(program, file)
    assert (refused.returncode, "set VLLM_API_KEY" in refused.stderr) == (1, True), refused
    file.write_text(text.replace("network_mode:", "networkmode:"))
    wrong = config(program, file, VLLM_API_KEY="key")
    assert wrong.returncode != 0 and "networkmode" in wrong.stderr, wrong
