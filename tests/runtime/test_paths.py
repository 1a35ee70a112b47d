"""Paths of patched releases outside the connector: other devices, telemetry, start-up; oldest and newest of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.inside_scripts import lines

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

#: Path, where it runs (an emulated HPU, or a host without a device), and the releases.
PATHS = {
    "resumed_requests_of_an_old_vllm": ("host", ["0.3.9", "0.3.9.post2"]),
    "resumed_requests_leave_no_load_spec": ("hpu", ["0.3.9", "0.3.9.post2"]),
    "synchronize_of_another_device": ("host", ["0.5.6"]),
    "synchronize_of_the_hpu": ("hpu", ["0.5.6"]),
    "telemetry_names_the_hpu": ("hpu", ["0.5.2", "0.5.6"]),
    "pd_is_refused": ("host", ["0.3.7", "0.3.13"]),
    "pd_on_the_host_is_not_refused": ("host", ["0.3.14", "0.5.6"]),
    "weka_is_refused": ("host", ["0.3.7", "0.3.11"]),
    "pushed_chunks_are_loaded_and_removed": ("hpu", ["0.3.14", "0.5.6"]),
    "numa_node_of_a_rank": ("host", ["0.3.7", "0.5.6"]),
    "registration_refuses_what_would_answer_wrongly": ("hpu", ["0.3.7", "0.5.6"]),
    "layer_groups_are_lmcaches_own": (
        "host",
        ["0.3.12", "0.3.13", "0.3.14", "0.3.15", "0.4.4", "0.4.5", "0.5.0", "0.5.2", "0.5.6"],
    ),
}


@pytest.mark.parametrize(
    ("name", "where", "version"),
    [
        pytest.param(name, where, version, id=f"{name}-{version}")
        for name, (where, versions) in PATHS.items()
        for version in versions
    ],
)
def test_a_path_beside_the_connector_does_what_it_should(
    name: str, where: str, version: str, patched_tree: Callable[[str], Path], torch_python: Path
) -> None:
    rules = "lazy" if where == "hpu" else "host"
    assert lines(torch_python, "paths.py", name, rules=rules, tree=patched_tree(version))[-1] == f"{name}: done"
