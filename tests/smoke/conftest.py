"""LMCache environments, patched as a user would patch them, for the smoke checks."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import environments
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment, clean_environment

PROBES = Path(runner.__file__).parent / "probes"

Overlay = Callable[[str], Environment]


def judge(
    python: Path,
    *levels: str,
    rules: tuple[str, ...] = ("lazy",),
    arguments: Mapping[str, Sequence[str]] | None = None,
) -> list[LevelResult]:
    """Run smoke levels on the emulated HPU, isolated from the developer's environment.

    ``arguments``: additional arguments of the probes, by level name.
    """
    environ = clean_environment()
    return runner.run(
        python, levels=levels, device="emulated", rules=rules, timeout=600, environ=environ, arguments=arguments
    )


def explain(results: list[LevelResult]) -> str:
    """Return the results as text for a failed assertion."""
    return "\n".join(
        f"{one.level} ({one.rules}) {one.status}: {one.reason}\n{one.output_tail[-3000:]}" for one in results
    )


def patch(environment: Environment) -> Environment:
    """Apply the series of the environment's release, without smoke checks: the test runs them itself."""
    given = os.environ.get("GAUDI_PATCH_TEST_MANIFEST")  # as in tests/integration
    manifest = ["--manifest", given] if given else []
    done = gaudi_patch("apply", "--no-smoke", "--python", environment.python, *manifest)
    assert done.code == 0, done.err
    return environment


@pytest.fixture(scope="session")
def patched(lmcache_overlay: Overlay, tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    """``patched(version)``: an environment of this release with its series applied; do not change it."""
    made: dict[str, Environment] = {}

    def get(version: str) -> Environment:
        if version not in made:
            lmcache_overlay(version)
            made[version] = patch(environments.overlay_copy(version, tmp_path_factory.mktemp("patched")))
        return made[version]

    return get


@pytest.fixture
def patched_copy(lmcache_copy: Overlay) -> Overlay:
    """``patched_copy(version)``: a private copy for one test, which may change it."""
    return lambda version: patch(lmcache_copy(version))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a probe's module by its bare name, as the target interpreter does."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(PROBES))

    def named(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield named
    for name in set(sys.modules) - before:
        if name.startswith(("_vllm", "_kv")) or name in (
            "_environment",
            "_probe",
            "inference",
            "inference_case",
            "connector_case",
        ):
            del sys.modules[name]
