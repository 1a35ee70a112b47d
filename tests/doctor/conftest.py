"""A healthy host for every test, copied from one that is laid out once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor import hosts


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaudi") / "host"
    folder.mkdir()
    hosts.build(folder)
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[socket.socket]:
    """Yield a remote store that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def gaudi(template: Path, server: socket.socket, tmp_path: Path) -> hosts.Gaudi:
    return hosts.healthy(template, tmp_path / "host", server)
