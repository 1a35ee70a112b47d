"""LMCache's configuration read by the real LMCache: values accepted, dropped and refused, in old and new releases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.doctor import arguments
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.checks import run
from gaudi_patch.doctor.host import Host
from gaudi_patch.series.manifest import load
from gaudi_patch.target.search import Target
from tests.support.environments import Environment, clean_environment

Overlay = Callable[[str], Environment]

pytestmark = pytest.mark.torch


def levels(
    environment: Environment, folder: Path, settings: Mapping[str, Any], line: str = "", **environ: str
) -> dict[str, tuple[str, str]]:
    """Return level and text of each finding for a configuration file. It is written as JSON, which is YAML too."""
    file = folder / "lmcache.yaml"
    file.write_text(json.dumps(settings))
    host = Host(environ={**clean_environment(), **environ}, sample=1024 * 1024)
    case = Case(host, Target(python=environment.python), load(), arguments.parse(line), file)
    return {one.id: (one.level.value, one.what) for one in run(case)}


GOOD = {"chunk_size": 256, "local_cpu": True, "max_local_cpu_size": 1.0}


@pytest.mark.parametrize("version", ["0.5.6"])
def test_what_lmcache_drops_is_found(version: str, lmcache_overlay: Overlay, tmp_path: Path) -> None:
    settings = {**GOOD, "max_local_cpu_size": "plenty", "chunksize": 3, "nixl_role": "sender", "external_backends": "a"}
    found = levels(lmcache_overlay(version), tmp_path, settings)
    assert found["config.load"][0] == "ok", found["config.load"]
    assert found["config.values"][0] == "failure"
    assert "max_local_cpu_size='plenty'" in found["config.values"][1]
    assert found["config.unknown-keys"] == ("warning", "ignored: chunksize, nixl_role")
    assert "external_backends is deprecated" in found["config.deprecated-keys"][1]


def test_what_lmcache_refuses_is_told_by_the_line_that_refuses_it(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    found = levels(lmcache_overlay("0.5.6"), tmp_path, {**GOOD, "enable_pd": True})
    level, what = found["config.load"]
    assert level == "failure"
    assert "it requires: self.pd_role is not None" in what
    assert found["config.pd-device"][0] == "unknown"


def test_the_environment_and_the_connector_override_the_file(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    line = "--kv-transfer-config.kv_connector_extra_config.lmcache.enable_blending true"
    found = levels(lmcache_overlay("0.5.6"), tmp_path, GOOD, line, LMCACHE_USE_LAYERWISE="True")
    assert found["config.layerwise"] == ("failure", "use_layerwise is True")
    assert found["config.blending"] == ("failure", "enable_blending is True")


def test_what_lmcache_goes_on_without_is_found(lmcache_copy: Overlay, tmp_path: Path) -> None:
    environment = lmcache_copy("0.5.6")
    found = levels(environment, tmp_path, GOOD)
    assert found["software.lmcache-imports"] == ("ok", "none is missing")
    (extension,) = (environment.site_packages / "lmcache").glob("lmcache_native*.so")
    extension.write_bytes(b"no library" * 1000)
    level, what = levels(environment, tmp_path, GOOD)["software.lmcache-imports"]
    assert level == "failure"
    assert what.startswith("LMCache's extension lmcache.lmcache_native does not load: "), what


def test_what_lmcache_changes_by_itself_is_told(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    found = levels(lmcache_overlay("0.5.6"), tmp_path, {**GOOD, "enable_blending": True})
    assert found["config.warnings"][0] == "warning"
    assert "save_unfull_chunk=True" in found["config.warnings"][1]


RELEASES = ("0.3.7", "0.3.9.post2", "0.3.10", "0.4.2", "0.4.5", "0.5.2")


@pytest.mark.releases
@pytest.mark.parametrize("version", RELEASES)
def test_every_kind_of_release_loads_its_configuration(version: str, lmcache_overlay: Overlay, tmp_path: Path) -> None:
    settings = {**GOOD, "save_unfull_chunk": True, "remote_serde": "cachegen", "gds_path": "/gds", "chonk": 1}
    found = levels(lmcache_overlay(version), tmp_path, settings)
    assert found["config.load"][0] == "ok", found["config.load"]
    assert found["config.unknown-keys"] == ("warning", "ignored: chonk")
    assert found["config.unfull-chunk"][0] == "warning"
    assert found["config.serde"][0] == "failure"
    assert found["config.gds"][0] == "failure"
    assert found["config.chunk-size"][0] == "ok"
