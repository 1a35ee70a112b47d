"""The device on a CUDA build of PyTorch, as an index provides it, on a machine without a GPU.

tests/support/cuda_build.py says which parts of it are real. For other releases, complete: ``python -m
tests.scripts.torch_builds``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import torch_builds
from tests.support import cuda_build
from tests.support.environments import Environment, EnvironmentUnavailableError

pytestmark = [pytest.mark.torch, pytest.mark.wheels]


@pytest.fixture(scope="module")
def build(torch_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with a CUDA build and LMCache; skip if there is no room or no such build is available."""
    try:
        return cuda_build.private_environment(tmp_path_factory.mktemp("cuda"))
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")


def test_it_is_a_cuda_build(build: Environment) -> None:
    program = "import json, torch; print(json.dumps([torch.__version__, torch.backends.cuda.is_built()]))"
    done = build.run("-c", program)
    assert done.returncode == 0, done.stderr
    version, built = json.loads(done.stdout)
    assert version.startswith(cuda_build.VERSION)
    assert built


@pytest.mark.parametrize("mode", torch_builds.MODES)
def test_every_conformance_case_passes(build: Environment, mode: str) -> None:
    result = torch_builds.conformance(build.python, mode)
    assert result.startswith("passed"), result


def test_the_series_applies_and_all_levels_pass_in_both_modes(build: Environment) -> None:
    results = torch_builds.smoke(build.python)
    assert len(results) == len(torch_builds.LEVELS) * len(torch_builds.MODES), results
    assert all(one.startswith("passed") for one in results.values()), results
