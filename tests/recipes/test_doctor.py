"""`doctor` accepts what `recipe` writes: every mode, as each target runs it, on a healthy host."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from gaudi_patch.commands.doctor import rendered
from gaudi_patch.doctor.examine import examine
from gaudi_patch.doctor.host import Host
from gaudi_patch.recipes.compose import MODES
from gaudi_patch.recipes.process import HERE, HOST, Process
from gaudi_patch.recipes.targets.write import NAMES
from gaudi_patch.target.search import Target
from tests.doctor.conftest import gaudi, server, template
from tests.doctor.hosts import Gaudi
from tests.recipes.targets import manifests, of_kind, started
from tests.recipes.test_compose import recipe

__all__ = ["gaudi", "server", "template"]


def complaints(host: Gaudi, process: Process, config: Mapping[str, Any] | None, more: Mapping[str, str]) -> list[str]:
    """Return the checks that warn or fail in the environment of ``process``."""
    environ = {one.name: one.value.replace(HERE, "/here").replace(HOST, "a") for one in process.variables}
    environ |= {"PATH": str(host.folder / "bin"), "PT_HPU_LAZY_MODE": "0", **more}
    environ.pop("LMCACHE_CONFIG_FILE", None)
    file = None
    if config is not None:
        file = host.folder / "lmcache.yaml"
        file.write_text(json.dumps(config))
    line = shlex.join(["vllm", *process.arguments[2:]])
    found = examine(
        host.manifest,
        Target(python=host.python),
        config=file,
        vllm_args=line,
        host=Host(host.root, environ, sample=1024 * 1024),
    )
    rows = rendered(found).data["findings"]
    assert len(rows) > 40
    assert next(one for one in rows if one["id"] == "vllm.preemption")["level"] != "unknown"
    return [f"{one['id']}: {one['what']}" for one in rows if one["level"] in ("warning", "failure")]


def environments(mode: str, storage: Mapping[str, str], ranks: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each engine's name and the environment that a target adds, each once."""
    seen = []
    for target in NAMES:
        if target == "compose":
            services = yaml.safe_load(started(mode, target, ranks=ranks, **storage).files["compose.yaml"])["services"]
            found = [(name, one["environment"]) for name, one in services.items() if name.startswith("vllm")]
        elif target == "kubernetes":
            kinds = of_kind(manifests(mode, ranks=ranks, **storage), "Deployment")
            found = [
                (one["metadata"]["name"], {env["name"]: env["value"] for env in container["env"] if "value" in env})
                for one in kinds
                for container in one["spec"]["template"]["spec"]["containers"]
                if container["name"] == "vllm"
            ]
        else:
            found = [("", {})]
        for name, environ in found:
            plain = {key: value for key, value in environ.items() if "$" not in value}
            if plain not in seen:
                seen.append(plain)
                yield name, plain


@pytest.mark.parametrize("mode", MODES)
def test_a_recipe_has_no_fault_that_the_doctor_would_find(mode: str, gaudi: Gaudi, server: socket.socket) -> None:
    ranks = 2
    (gaudi.root / "mnt" / "lmcache").mkdir(parents=True)
    storage = {"storage": "/mnt/lmcache"} if mode in ("shared", "mixed", "disaggregated") else {}
    if mode == "remote":
        storage = {"storage": f"lm://127.0.0.1:{server.getsockname()[1]}"}
    disk = {} if mode in ("memory", "multiprocess") else {"disk_gb": 0.01}
    found = recipe(mode, ranks=ranks, cpu_gb=34.0, max_model_len=131_072, **disk, **storage)
    if mode == "multiprocess":
        (one,) = [process for process in found.processes if not process.serves]
        gaudi.file("/proc/77/cmdline", "\0".join(["python3", *one.arguments, ""]))
    engines = [process for process in found.processes if process.serves and process.patched]
    assert engines
    cases = [("", {})] if mode == "remote" else list(environments(mode, storage, ranks))
    for process in engines:
        for name, environ in cases:
            assert complaints(gaudi, process, found.config or None, environ) == [], (process.name, name)
