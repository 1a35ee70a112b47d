"""LMCache's internal API: its ports, the clients that it admits, and conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.doctor.hosts import Gaudi, findings

ON = {"internal_api_server_enabled": True}
START = "internal_api_server_port_start"
RECEIVER = {"enable_pd": True, "pd_buffer_device": "cpu", "pd_role": "receiver"}


@pytest.mark.parametrize(
    ("settings", "options", "level", "said"),
    [
        ({}, "--port 6999", "ok", "off"),
        (ON, "", "ok", "on 127.0.0.1, port 6999, 7000: anyone"),
        (ON, "--tensor-parallel-size 4", "ok", "port 6999, 7000, 7001, 7002, 7003:"),
        (ON, "--data-parallel-size 2", "ok", "port 6999, 7000:"),
        ({**ON, "internal_api_server_host": "localhost"}, "", "ok", "on localhost"),
        ({**ON, "internal_api_server_host": "::1"}, "", "ok", "on ::1"),
        (
            {**ON, "internal_api_server_host": "10.1.2.3"},
            "",
            "warning",
            "listens on 10.1.2.3, port 6999, 7000,",
        ),
        ({**ON, "internal_api_server_host": "::"}, "", "warning", "without a key"),
        ({**ON, "internal_api_server_socket_path_prefix": "/run/api"}, "--port 6999", "ok", "/run/api_PORT"),
        ({**ON, "internal_api_server_include_index_list": [1]}, "--port 6999", "ok", "port 7000:"),
        ({**ON, "internal_api_server_include_index_list": [9]}, "", "ok", "names no process"),
        ({**ON, "internal_api_server_port_start": 8000}, "", "failure", "port 8000: the internal API of the scheduler"),
        ({**ON, "internal_api_server_port_start": 7999}, "", "failure", "port 8000: the internal API of worker 0"),
        (ON, "--port 7003", "ok", "on 127.0.0.1"),
        (ON, "--port 7003 --tensor-parallel-size 4", "failure", "port 7003: the internal API of worker 3, and --port"),
        (ON, "--port 7000 --host 10.1.2.3", "ok", "on 127.0.0.1"),
        (ON, "--port 7000 --host localhost", "failure", "worker 0"),
        ({**ON, **RECEIVER, "pd_peer_init_port": [7000]}, "", "failure", "worker 0, and pd_peer_init_port"),
        ({**ON, **RECEIVER, "pd_peer_query_port": [6999]}, "", "failure", "the scheduler, and pd_peer_query_port"),
        ({**ON, START: 29501}, "", "ok", "on 127.0.0.1"),
        (
            {**ON, START: 29501},
            "--nnodes 2",
            "failure",
            "port 29501: the internal API of the scheduler, and --master-port",
        ),
        ({**ON, START: 29501}, "-n 2 -r 1", "ok", "on 127.0.0.1"),
        ({**ON, START: 29501}, "--nnodes 2 --master-addr 10.1.2.3", "ok", "on 127.0.0.1"),
        (ON, "--nnodes 2 --master-port 7000", "failure", "worker 0, and --master-port"),
        ({**ON, START: 29549}, "-dp 4", "ok", "on 127.0.0.1"),
        (
            {**ON, START: 29549},
            "-dp 4 -dpl 2",
            "failure",
            "port 29550: the internal API of worker 0, and --data-parallel-rpc",
        ),
        ({**ON, START: 29549}, "-dp 4 -dpl 2 -dpr 2", "ok", "on 127.0.0.1"),
        (ON, "-dp 4 -dpl 2 -dpp 6999", "failure", "the scheduler, and --data-parallel-rpc-port"),
        ({**ON, "enable_controller": True, "lmcache_worker_ports": [6999]}, "", "failure", "and lmcache_worker_ports"),
        ({**ON, "lmcache_worker_ports": [6999]}, "", "ok", "on 127.0.0.1"),
        ({**ON, **RECEIVER, "pd_role": "sender", "pd_peer_init_port": [7000]}, "", "ok", "on 127.0.0.1"),
    ],
)
def test_its_ports_and_its_address_are_told(
    gaudi: Gaudi, settings: dict[str, Any], options: str, level: str, said: str
) -> None:
    gaudi.config.update(settings)
    gaudi.ranks, gaudi.options = 1, options
    found = findings(gaudi.run())["config.internal-api"]
    assert (found["level"], said in found["what"]) == (level, True), found


def test_of_a_mode_with_a_server_of_its_own_nothing_is_said(gaudi: Gaudi) -> None:
    gaudi.config.update({**ON, "internal_api_server_host": "0.0.0.0"})
    gaudi.kv["kv_connector"] = "LMCacheMPConnector"
    assert "not used" in findings(gaudi.run())["config.internal-api"]["what"]
