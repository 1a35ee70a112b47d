"""Fixtures of the emulated HPU's tests, and the count of conformance cases at the end."""

from __future__ import annotations

import collections
import fcntl
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.activations import SCRIPT, Run
from tests.emulator.support import ForkServer, run_script


@pytest.fixture(scope="session")
def once(torch_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``once(script, *arguments)``: a script's report; it runs once per session, across pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def get(script: str, *arguments: str, timeout: float = 300) -> Any:
        path = shared / "-".join([script, *arguments, "report.json"])
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                try:
                    report = {"report": run_script(torch_python, script, *arguments, timeout=timeout)}
                except AssertionError as error:
                    report = {"died": str(error)}
                path.write_text(json.dumps(report))
        outcome = json.loads(path.read_text())
        if "died" in outcome:
            pytest.fail(outcome["died"], pytrace=False)
        return outcome["report"]

    return get


@pytest.fixture(scope="session")
def forks(torch_python: Path) -> Iterator[ForkServer]:
    """Run short programs that need PyTorch, without the time of its import."""
    server = ForkServer(torch_python)
    yield server
    server.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many conformance cases were compared with the CPU, and how many were bit-identical."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "conformance" in properties:
                counts[properties["conformance"]][outcome] += 1
    for mode, count in sorted(counts.items()):
        total = sum(count.values())
        terminalreporter.write_line(
            f"conformance, {mode}: {count['passed']} of {total} cases bit for bit as on the CPU"
        )


@pytest.fixture
def run(forks: ForkServer) -> Run:
    """Run a program, which must succeed, and return its output."""

    def go(program: str, **env: str) -> str:
        done = forks.run(textwrap.dedent(program), env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return go


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "scripts" / "script.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    (path.parent / "helper.py").write_text("VALUE = 'found beside the script'\n")
    return path
