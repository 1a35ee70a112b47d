"""Fixtures shared by several test directories."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.output import streams
from tests.support import environments, release_table
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable

# nohup ignores SIGHUP, and a background shell SIGINT and SIGQUIT: every process of a test would inherit that.
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """Return an interpreter with PyTorch and LMCache's import dependencies."""
    try:
        return environments.torch_python()
    except EnvironmentUnavailableError as error:
        unavailable(error)


@pytest.fixture(scope="session")
def lmcache_wheel() -> Callable[..., Path]:
    """``lmcache_wheel(version, python="3.11")``: return the cached wheel of a release."""

    def get(version: str, python: str = "3.11") -> Path:
        try:
            return environments.wheel(version, python)
        except EnvironmentUnavailableError as error:
            unavailable(error)

    return get


@pytest.fixture(scope="session")
def lmcache_overlay() -> Callable[[str], Environment]:
    """``lmcache_overlay(version)``: return the shared environment of a release; it must not be changed."""

    def get(version: str) -> Environment:
        try:
            return environments.overlay(version)
        except EnvironmentUnavailableError as error:
            unavailable(error)

    return get


@pytest.fixture
def lmcache_copy(lmcache_overlay: Callable[[str], Environment], tmp_path: Path) -> Callable[[str], Environment]:
    """``lmcache_copy(version)``: return a private copy of a release's environment, which may be changed."""

    def get(version: str) -> Environment:
        lmcache_overlay(version)
        return environments.overlay_copy(version, tmp_path)

    return get


def pytest_runtest_teardown() -> None:
    """Forget the --color option of a command run in this process: it would stay in effect for the whole test run."""
    streams.choose(streams.Color.AUTO)


def pytest_configure(config: pytest.Config) -> None:
    """Register markers that only these tests use."""
    config.addinivalue_line("markers", "releases: all releases in full; runs only when asked for, with -m releases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that take minutes per release, unless the command line's -m names them."""
    if "releases" in str(config.getoption("-m")):
        return
    left_out = [item for item in items if item.get_closest_marker("releases")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("releases")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault injection tried: the counts that tests pass to ``record_property``."""
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", []):
            if isinstance(value, int):
                counts[name] = counts.get(name, 0) + value
    if counts:
        terminalreporter.section("faults tried, all green")
        for name, number in sorted(counts.items()):
            terminalreporter.line(f"{number:>6} {name}")
    reports = [one for status in ("passed", "failed") for one in terminalreporter.stats.get(status, [])]
    if rows := release_table.rows_of(reports):
        text = release_table.markdown(rows)
        terminalreporter.section("releases and levels")
        terminalreporter.line(text)
        if target := os.environ.get("GAUDI_PATCH_TEST_TABLE"):
            Path(target).write_text(text + "\n", encoding="utf-8")
